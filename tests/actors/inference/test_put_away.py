"""A model that the operator puts away and takes out again, with a real worker process."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob
from r3mes.errors import EngineCrashed, ModelNotFound, ModelUnloaded, NotReady

pytestmark = pytest.mark.slow

Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]


async def answer(client: InferenceClient, text: str) -> str:
    job = GenerateJob("toy", [{"role": "user", "content": text}])
    with trio.fail_after(20):
        async with client.generate(job, deadline_s=10) as generation:
            return "".join([chunk.text async for chunk in generation])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_the_worker_goes_with_its_memory_and_comes_back(toy: Toy) -> None:
    async with toy() as client:
        board = client.boards()["toy"]
        pid = board.pid
        assert pid is not None
        for _ in range(2):  # the second time changes nothing
            await client.unload("toy", patience_s=5)
            assert (board.state, board.pid) == ("unloaded", None)
        assert gone(pid)
        assert client.manifests() == ()
        with pytest.raises(ModelUnloaded):
            await answer(client, "say hi")
        for _ in range(2):
            await client.load("toy")
            await client.settled()
        assert await answer(client, "say hi") == "hi"
        assert board.pid != pid
        assert board.restarts == 0


async def test_an_answer_in_flight_ends_whole_and_others_are_told(toy: Toy) -> None:
    said: list[str] = []
    refused: list[str] = []

    async def take(text: str) -> None:
        try:
            said.append(await answer(client, text))
        except ModelUnloaded:
            refused.append(text)

    async with toy() as client, trio.open_nursery() as nursery:
        board = client.boards()["toy"]
        long = "x" * 120
        nursery.start_soon(take, f"say {long}")
        while not board.running:  # noqa: ASYNC110  a board tells no counts
            await trio.sleep(0.005)
        nursery.start_soon(take, "say waiting")
        while not board.waiting:  # noqa: ASYNC110
            await trio.sleep(0.005)
        async with trio.open_nursery() as unloading:
            unloading.start_soon(partial(client.unload, "toy", patience_s=10))
            while board.state != "unloading":
                await board.changed.wait()
            assert client.manifests() == ()  # not offered any more
            await take("say late")
            with pytest.raises(NotReady):
                await client.load("toy")
            assert board.running == 1
    assert said == [long]
    assert sorted(refused) == ["say late", "say waiting"]


async def test_an_answer_that_takes_too_long_is_cut_off(toy: Toy) -> None:
    async with toy() as client:
        job = GenerateJob("toy", [{"role": "user", "content": "count"}])
        async with client.generate(job, deadline_s=10) as generation:
            await client.unload("toy", patience_s=0.05)
            with pytest.raises(ModelUnloaded):
                async for _ in generation:
                    pass
        assert client.boards()["toy"].state == "unloaded"


async def test_a_model_that_is_being_loaded_or_could_not_be(toy: Toy, toy_dir: Path) -> None:
    async with toy(device="slow", load_timeout=0.2) as client:
        board = client.boards()["toy"]
        assert board.state == "failed"
        await client.unload("toy", patience_s=5)
        assert board.state == "unloaded"
        assert board.pid is None


async def test_a_model_whose_files_were_mended_is_tried_again_at_once(
    toy: Toy, toy_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text("{")
    async with toy(source=str(tmp_path)) as client:
        assert client.boards()["toy"].state == "failed"  # for good, as the files are invalid
        shutil.copy(toy_dir / "config.json", tmp_path)
        await client.load("toy")
        await client.settled()
        assert await answer(client, "say mended") == "mended"


async def test_who_waits_is_told_when_the_files_changed_under_a_worker_that_died(
    toy: Toy, toy_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_dir, tmp_path, dirs_exist_ok=True)
    told: list[str] = []

    async def ask(client: InferenceClient, text: str) -> None:
        try:
            await answer(client, text)
        except EngineCrashed as error:
            told.append(error.detail)

    async with toy(source=str(tmp_path)) as client, trio.open_nursery() as nursery:
        board = client.boards()["toy"]
        before = client.manifests()[0].hash
        nursery.start_soon(ask, client, "count")
        while not board.running:  # noqa: ASYNC110  a board tells no counts
            await trio.sleep(0.005)
        nursery.start_soon(ask, client, "say waiting")
        while not board.waiting:  # noqa: ASYNC110
            await trio.sleep(0.005)
        (tmp_path / "generation_config.json").write_text("{}")
        assert board.pid is not None
        os.kill(board.pid, signal.SIGKILL)
        with trio.fail_after(20):
            while not told:  # noqa: ASYNC110
                await trio.sleep(0.005)
            while board.state != "ready":
                await board.changed.wait()
        assert client.manifests()[0].hash != before
        assert await answer(client, "say after") == "after"
    assert "the model's files have changed" in told


async def test_verify_reads_the_files_again(toy: Toy, toy_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_dir, tmp_path, dirs_exist_ok=True)
    async with toy(source=str(tmp_path)) as client:
        found = await client.verify("toy")
        assert found.ok
        assert set(found.files) == set(os.listdir(tmp_path))
        (tmp_path / "model.safetensors").write_bytes(b"other weights")
        (tmp_path / "chat_template.jinja").unlink()
        (tmp_path / "vocab.json").write_text("{}")
        found = await client.verify("toy")
        assert not found.ok
        assert found.expected != found.found
        assert found.differing == {
            "chat_template.jinja": "missing",
            "model.safetensors": "changed",
            "vocab.json": "added",
        }
        await client.unload("toy", patience_s=1)
        with pytest.raises(ModelUnloaded):
            await client.verify("toy")


async def test_an_idle_worker_says_what_it_takes_on_its_gpu(toy: Toy) -> None:
    async with toy() as client:
        board = client.boards()["toy"]
        with trio.fail_after(20):
            while not board.gpu_bytes:  # noqa: ASYNC110  until its first sign of life
                await trio.sleep(0.02)
        assert board.gpu_bytes == 7 << 30


async def test_a_prompt_is_counted_without_an_answer(toy: Toy) -> None:
    async with toy() as client:
        message: dict[str, Any] = {"role": "user", "content": "abc"}
        one = await client.count_prompt("toy", [message])
        assert await client.count_prompt("toy", [{**message, "content": "abcd"}]) == one + 1
        assert client.boards()["toy"].running == 0
        for call in (client.count_prompt("x", []), client.verify("x"), client.load("x")):
            with pytest.raises(ModelNotFound):
                await call
