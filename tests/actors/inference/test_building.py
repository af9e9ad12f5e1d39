"""Code that is built for the machine beside the answers, with real processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
import trio.testing

from r3mes.actors.inference.actor import Board
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob

pytestmark = pytest.mark.slow

Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]


async def until(board: Board, state: str) -> None:
    with trio.fail_after(20):
        while board.state != state:
            await board.changed.wait()


async def test_a_worker_that_uses_it_takes_over_when_no_answer_is_in_flight(
    toy: Toy, tmp_path: Path
) -> None:
    said: list[str] = []

    async def take(client: InferenceClient, text: str) -> None:
        job = GenerateJob("toy", [{"role": "user", "content": text}])
        async with client.generate(job, deadline_s=20) as generation:
            said.append("".join([chunk.text async for chunk in generation]))

    async with toy(programs=tmp_path, build_after_s=0.0) as client, trio.open_nursery() as nursery:
        board = client.boards()["toy"]
        first, long = board.pid, "x" * 120
        assert (board.state, board.native) == ("ready", "not built yet")
        nursery.start_soon(take, client, f"say {long}")
        await until(board, "restarting")
        assert said == [long]  # the old worker wrote it to its end
        nursery.start_soon(take, client, "say hi")  # waits for the new one
        await until(board, "ready")
        assert (board.native, board.restarts) == ("built", 0)
        assert board.pid != first
    assert said == [long, "hi"]


async def test_what_cannot_be_built_is_said(toy: Toy, toy_dir: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(toy_dir, tmp_path / "model"))
    (model / "refusal").write_text("there is no C++ compiler")
    async with toy(source=str(model), programs=tmp_path, build_after_s=0.0) as client:
        board = client.boards()["toy"]
        pid = board.pid
        with trio.fail_after(20):
            while "compiler" not in board.native:
                await board.changed.wait()
        assert board.native == "not built yet: there is no C++ compiler"
        assert (board.state, board.pid) == ("ready", pid)


async def test_without_a_place_nothing_is_built(toy: Toy) -> None:
    async with toy(build_after_s=0.0) as client:
        assert client.boards()["toy"].native == "not built yet"
        await trio.testing.wait_all_tasks_blocked()
        assert client.boards()["toy"].state == "ready"


async def test_a_request_that_comes_at_the_change_is_answered(toy: Toy, tmp_path: Path) -> None:
    said: list[str] = []

    async def take(client: InferenceClient) -> None:
        job = GenerateJob("toy", [{"role": "user", "content": "say hi"}])
        with trio.fail_after(30):
            async with client.generate(job, deadline_s=1000) as generation:
                said.append("".join([chunk.text async for chunk in generation]))

    async def keep_taking(client: InferenceClient, board: Board) -> None:
        while board.native != "built":
            await take(client)

    times = {"build_after_s": 0.0, "exchange_within_s": 0.1}
    async with toy(programs=tmp_path, **times, slots=1) as client:
        board = client.boards()["toy"]
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(keep_taking, client, board)
        await take(client)  # no slot was lost
    assert set(said) == {"hi"}


async def test_what_was_built_in_vain_is_not_built_again(
    toy: Toy, toy_dir: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(toy_dir, tmp_path / "model"))
    (model / "in-vain").touch()
    async with toy(source=str(model), programs=tmp_path, build_after_s=0.0) as client:
        board = client.boards()["toy"]
        first = board.pid
        with trio.fail_after(20):
            while board.pid in (None, first) or board.state != "ready":
                await board.changed.wait()
        for _ in range(2):  # each worker says that it lacks it
            await client.unload("toy", patience_s=5)
            await client.load("toy")
            await until(board, "ready")
        assert board.native == "not built yet"
        assert (tmp_path / "runs").read_text() == "x"
