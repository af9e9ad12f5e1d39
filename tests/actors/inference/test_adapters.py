"""The adapters of one model: offered, fetched, replaced and put away, with a real worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors.inference.adapter_files import adapted_hash, read_adapter
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.settings import AdapterSettings
from r3mes.errors import (
    EngineError,
    ModelInvalid,
    ModelMissing,
    ModelNotFound,
    ModelUnloaded,
    R3mesError,
)
from r3mes.ids import ModelHash

pytestmark = pytest.mark.slow

Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]
LAYERS = {"q_proj": (8, 8)}


@pytest.fixture
def said(tmp_path: Path, save_at: Callable[..., Path]) -> Callable[..., AdapterSettings]:
    """An adapter that obeys a word, by which it is also called."""

    def adapter(word: str, **settings: Any) -> AdapterSettings:
        directory = save_at(tmp_path / word, LAYERS, revision=word)
        return AdapterSettings(**({"name": word, "source": str(directory)} | settings))

    return adapter


async def answer(client: InferenceClient, model: str, text: str = "say hi") -> str:
    job = GenerateJob(model, [{"role": "user", "content": text}])
    with trio.fail_after(20):
        async with client.generate(job, deadline_s=10) as generation:
            return "".join([chunk.text async for chunk in generation])


async def test_each_answers_under_its_own_name_and_hash(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    red, blue = said("red"), said("blue")
    async with toy(adapters=(red, blue), slots=4) as client:
        base, *adapted = client.manifests()
        assert [one.name for one in adapted] == ["toy:red", "toy:blue"]
        expected = [
            adapted_hash(base.hash, read_adapter(Path(one.source)).hash) for one in (red, blue)
        ]
        assert [one.hash for one in adapted] == expected
        assert adapted[0].numeric_class == "toy, by the toy"
        answers: dict[str, str] = {}

        async def ask(model: str) -> None:
            answers[model] = await answer(client, model)

        async with trio.open_nursery() as nursery:
            for model in ("toy", "toy:red", "toy:blue"):
                nursery.start_soon(ask, model)
        assert answers == {"toy": "hi", "toy:red": "red hi", "toy:blue": "blue hi"}
        with pytest.raises(ModelNotFound, match="no adapter named 'green'"):
            await answer(client, "toy:green")


async def test_those_that_were_used_least_lately_make_room_and_come_back(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    adapters = tuple(map(said, ("a", "b", "c")))
    async with toy(adapters=adapters, adapter_places=2) as client:
        assert len(client.manifests()) == 4  # also the one that has no place
        assert await answer(client, "toy", "adapters") == "b c"
        for word, inside in (("b", "b c"), ("a", "a b"), ("b", "a b"), ("c", "b c")):
            assert await answer(client, f"toy:{word}") == f"{word} hi"
            assert await answer(client, "toy", "adapters") == inside


async def test_answers_wait_for_a_place_that_others_hold(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    """And later ones with adapters do not keep it from becoming free; those without go on."""
    async with toy(adapters=(said("a"), said("b")), adapter_places=1, slots=4) as client:
        order: list[str] = []
        board = client.boards()["toy"]

        async def ask(model: str, text: str) -> None:
            await answer(client, model, text)
            order.append(model)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "toy:b", f"say {'x' * 60}")
            while not board.running:  # noqa: ASYNC110  a board tells no counts
                await trio.sleep(0.005)
            nursery.start_soon(ask, "toy:a", "say x")
            while not board.waiting:  # noqa: ASYNC110
                await trio.sleep(0.005)
            await trio.sleep(0.1)  # until it is known that there is no room
            nursery.start_soon(ask, "toy:b", "say x")
            await ask("toy", "say x")
        assert order[0] == "toy"
        assert order[1] == "toy:b"
        assert sorted(order[2:]) == ["toy:a", "toy:b"]
        assert order[2] == "toy:a"


async def test_another_takes_over_a_name_while_answers_go_on(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    async with toy(adapters=(said("old"),), slots=2) as client:
        (_, before) = client.manifests()
        job = GenerateJob("toy:old", [{"role": "user", "content": f"say {'x' * 80}"}])
        async with client.generate(job, deadline_s=10) as generation:
            with trio.fail_after(20):
                await client.load_adapter("toy", said("new", name="old"))
            (_, after) = client.manifests()
            assert before.name == after.name
            assert before.hash != after.hash
            assert await answer(client, "toy:old") == "new hi"
            text = "".join([chunk.text async for chunk in generation])
        assert text == f"old {'x' * 80}"
        assert await answer(client, "toy", "adapters") == "new"


async def test_what_cannot_be_loaded_harms_nobody(
    toy: Toy, said: Callable[..., AdapterSettings], tmp_path: Path
) -> None:
    async with toy(adapters=(said("good"), said("refuse")), slots=2) as client:
        assert [one.name for one in client.manifests()] == ["toy", "toy:good"]
        with pytest.raises(ModelInvalid, match="does not suit the toy"):
            await answer(client, "toy:refuse")
        bad: list[tuple[AdapterSettings, type[R3mesError], str]] = [
            (said("refuse", name="good"), ModelInvalid, "does not suit"),
            (said("stumble"), ModelInvalid, "a library's mistake"),
            (AdapterSettings("none", str(tmp_path / "none")), ModelMissing, "no directory"),
            (said("hashed", hash=ModelHash(bytes(32))), ModelInvalid, "not the one in"),
        ]
        for settings, kind, why in bad:
            with pytest.raises(kind, match=why), trio.fail_after(20):
                await client.load_adapter("toy", settings)
        assert await answer(client, "toy:good") == "good hi"
        assert client.boards()["toy"].restarts == 0


async def test_one_that_kills_workers_is_tried_no_more(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    async with toy(adapters=(said("good"),)) as client:
        with pytest.raises(EngineError, match="died while it loaded"), trio.fail_after(20):
            await client.load_adapter("toy", said("die"))
        assert client.boards()["toy"].restarts == 2
        assert await answer(client, "toy:good") == "good hi"


async def test_files_that_changed_are_not_taken_unasked(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    adapter = said("a")
    async with toy(adapters=(adapter, said("b")), adapter_places=1) as client:
        file = Path(adapter.source) / "adapter_config.json"
        file.write_text(file.read_text().replace('"a"', '"changed"'))
        with pytest.raises(ModelInvalid, match="have changed since"):
            await answer(client, "toy:a")
        assert [one.name for one in client.manifests()] == ["toy", "toy:b"]
        await client.load_adapter("toy", adapter)
        assert await answer(client, "toy:a") == "changed hi"


async def test_the_next_worker_gets_them_again(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    async with toy(adapters=(said("a"),)) as client:
        hashes = [one.hash for one in client.manifests()]
        board = client.boards()["toy"]
        assert board.pid is not None
        os.kill(board.pid, 9)
        while board.state == "ready":
            await board.changed.wait()
        assert await answer(client, "toy:a") == "a hi"  # the name stays offered all the while
        await client.unload("toy", patience_s=5)
        assert client.manifests() == ()
        await client.load("toy")
        while board.state != "ready":
            await board.changed.wait()
        assert [one.hash for one in client.manifests()] == hashes
        assert await answer(client, "toy:a") == "a hi"


async def test_one_that_is_put_away_lets_answers_end(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    adapter = said("a")
    async with toy(adapters=(adapter,), slots=2) as client:
        job = GenerateJob("toy:a", [{"role": "user", "content": f"say {'x' * 40}"}])
        async with (
            client.generate(job, deadline_s=10) as generation,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(unload, client, 10)
            text = "".join([chunk.text async for chunk in generation])
        assert text == f"a {'x' * 40}"
        with pytest.raises(ModelUnloaded):
            await answer(client, "toy:a")
        assert await answer(client, "toy", "adapters") == ""

        await client.load_adapter("toy", adapter)
        job = GenerateJob("toy:a", [{"role": "user", "content": "count"}])
        async with client.generate(job, deadline_s=10) as generation:
            await client.unload_adapter("toy:a", patience_s=0.05)
            with pytest.raises(ModelUnloaded):
                async for _ in generation:
                    pass
        assert await answer(client, "toy") == "hi"
        assert client.boards()["toy"].restarts == 0


async def unload(client: InferenceClient, patience_s: float) -> None:
    await client.unload_adapter("toy:a", patience_s=patience_s)


async def test_one_that_does_not_fit_is_refused(toy: Toy, save: Callable[..., Path]) -> None:
    large = save({"q_proj": (4096, 4096)}, r=512, revision="large")
    async with toy(memory_bytes=130 << 20) as client:
        with pytest.raises(EngineError, match=r"takes 128 MiB of memory, and \d+ MiB are left"):
            await client.load_adapter("toy", AdapterSettings("large", str(large)))
        assert await answer(client, "toy") == "hi"
    async with toy(memory_bytes=400 << 20) as client:
        await client.load_adapter("toy", AdapterSettings("large", str(large)))


async def test_a_model_that_rests_wakes_for_its_adapters(
    toy: Toy, said: Callable[..., AdapterSettings]
) -> None:
    async with toy(adapters=(said("a"),), idle_s=0.2) as client:
        board = client.boards()["toy"]
        for model, settings in (("toy:a", None), ("toy:b", said("b"))):
            with trio.fail_after(20):
                while board.state != "resting":
                    await board.changed.wait()
            assert "toy:a" in [one.name for one in client.manifests()]
            if settings is not None:
                with trio.fail_after(20):
                    await client.load_adapter("toy", settings)
            assert await answer(client, model) == f"{model[-1]} hi"
