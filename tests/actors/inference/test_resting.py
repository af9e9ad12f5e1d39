"""Models that give their memory back while nobody asks for them, with real worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import pytest
import trio

from r3mes.actors.inference.actor import Board
from r3mes.actors.inference.admission import Admission
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.pressure import IDLE_S, LOOK_S, Pressure
from r3mes.errors import ModelTooLarge, Overloaded

Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]


async def answer(client: InferenceClient, text: str, deadline_s: float = 10) -> str:
    job = GenerateJob("toy", [{"role": "user", "content": text}])
    with trio.fail_after(20):
        async with client.generate(job, deadline_s=deadline_s) as generation:
            return "".join([chunk.text async for chunk in generation])


async def turned(board: Board, state: str) -> None:
    with trio.fail_after(20):
        while board.state != state:
            await board.changed.wait()


@pytest.mark.slow
async def test_an_idle_model_rests_and_the_next_request_wakes_it(toy: Toy) -> None:
    async with toy(idle_s=0.3) as client:
        board = client.boards()["toy"]
        pid = board.pid
        assert pid is not None
        await turned(board, "resting")
        assert board.error is not None
        assert board.error.detail == "nobody asked for it for 0.005 minutes"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert [manifest.name for manifest in client.manifests()] == ["toy"]  # offered as before
        assert await answer(client, "say awake") == "awake"
        assert board.pid not in (None, pid)
        assert board.restarts == 0
        await turned(board, "resting")
        board.admission.loaded(3600.0)  # slower than anybody's patience, last time
        assert await answer(client, "say awake") == "awake"
        await turned(board, "resting")
        with pytest.raises(Overloaded):  # it could not be loaded in time
            await answer(client, "say late", deadline_s=0.0001)


@pytest.mark.slow
async def test_who_has_something_to_do_or_is_pinned_does_not_rest(toy: Toy) -> None:
    async with toy() as client:
        job = GenerateJob("toy", [{"role": "user", "content": "count"}])
        async with client.generate(job, deadline_s=5):
            assert not await client.rest("toy", "memory is short")
        assert await answer(client, "say still here") == "still here"
    async with toy(pinned=True, idle_s=0.05) as client:
        assert not await client.rest("toy", "memory is short")
        await trio.sleep(0.2)  # longer than it may be idle
        assert client.boards()["toy"].state == "ready"


@pytest.mark.slow
async def test_a_resting_model_is_unloaded_and_loaded_like_any_other(toy: Toy) -> None:
    async with toy() as client:
        board = client.boards()["toy"]
        for _ in range(2):
            assert await client.rest("toy", "memory is short")
            await turned(board, "resting")
            await client.load("toy")
            await turned(board, "ready")
        assert await client.rest("toy", "memory is short")
        await turned(board, "resting")
        await client.unload("toy", patience_s=5)
        assert board.state == "unloaded"
        assert client.manifests() == ()
        await client.load("toy")
        await turned(board, "ready")


@dataclass
class SmallModels:
    """Boards of models, and which were put to rest."""

    models: dict[str, Board] = field(default_factory=dict)
    rested: list[str] = field(default_factory=list)

    def add(self, name: str, idle_s: float, **facts: object) -> None:
        board = Board(1, Admission(1), state="ready", idle_since=trio.current_time() - idle_s)
        for fact, value in facts.items():
            setattr(board, fact, value)
        self.models[name] = board

    def boards(self) -> dict[str, Board]:
        return self.models

    async def rest(self, model: str, why: str) -> bool:
        self.rested.append(f"{model}: {why}")
        self.models[model].state = "resting"
        return True


@pytest.mark.parametrize(
    ("free", "rested"),
    [
        (1 << 30, []),
        (100 << 20, ["long", "short"]),
    ],
)
async def test_when_memory_is_short_the_longest_idle_goes_first(
    autojump_clock: object, nursery: trio.Nursery, free: float, rested: list[str]
) -> None:
    models = SmallModels()
    models.add("short", IDLE_S)
    models.add("long", IDLE_S + 10)
    models.add("pinned", IDLE_S + 20, pinned=True)
    models.add("busy", IDLE_S + 20, running=1)
    models.add("fresh", -600)
    await nursery.start(Pressure(models, lambda: free, lambda: 4 << 30).run)
    await trio.sleep(LOOK_S * 4)
    assert models.rested == [f"{name}: only 100 MiB of memory were free" for name in rested]


async def test_a_model_that_does_not_fit_beside_others_gets_their_place(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    models = SmallModels()
    models.add("idle", 20)
    models.add("large", 0, state="failed", error=ModelTooLarge("the weights take 9 MiB"))
    await nursery.start(Pressure(models, lambda: 1 << 40, lambda: 1 << 41).run)
    await trio.sleep(LOOK_S * 3)
    assert models.rested == ["idle: large needs its memory"]
