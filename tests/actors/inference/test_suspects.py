"""A request that kills its worker: others are tried again, it is refused in the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
import trio

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.protocol import Start
from r3mes.actors.inference.suspects import HOLD_S, MOST, Suspects
from r3mes.errors import EngineCrashed, RequestQuarantined

Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]


def start(prompt: bytes) -> Start:
    known: dict[str, Any] = {"id": 1, "prompt": prompt, "seed": 1}
    blank: dict[type, Any] = {int: 0, float: 0.0, bytes: b"", str: "", bool: False}
    for field in msgspec.structs.fields(Start):
        if field.required and field.name not in known:
            known[field.name] = blank.get(field.type, ())
    return Start(**known)


async def answer(client: InferenceClient, text: str) -> str:
    job = GenerateJob("toy", [{"role": "user", "content": text}])
    with trio.fail_after(30):
        async with client.generate(job, deadline_s=20) as generation:
            return "".join([chunk.text async for chunk in generation])


async def test_two_deaths_are_enough_for_a_while(autojump_clock: object) -> None:
    suspects = Suspects()
    suspects.died([start(b"bad"), start(b"good")])
    suspects.check(start(b"bad"))
    assert suspects.suspected(start(b"good"))
    suspects.clear(start(b"good"))
    assert not suspects.suspected(start(b"good"))
    suspects.died([start(b"bad")])
    with pytest.raises(RequestQuarantined, match="2 times") as refused:
        suspects.check(msgspec.structs.replace(start(b"bad"), id=7, seed=9, emitted=b"1234"))
    assert refused.value.retry_after_s == HOLD_S
    suspects.check(start(b"good"))
    await trio.sleep(HOLD_S)
    suspects.check(start(b"bad"))


async def test_no_more_suspects_are_kept_than_there_is_room_for(autojump_clock: object) -> None:
    suspects = Suspects()
    suspects.died([start(b"first")] * 2)
    suspects.died(start(b"%d" % number) for number in range(MOST))
    suspects.check(start(b"first"))
    assert suspects.suspected(start(b"%d" % (MOST - 1)))


@pytest.mark.slow
async def test_who_was_beside_a_deadly_request_is_answered_and_it_is_refused(toy: Toy) -> None:
    said: dict[str, str | Exception] = {}

    async def ask(client: InferenceClient, text: str) -> None:
        try:
            said[text] = await answer(client, text)
        except EngineCrashed as error:
            said[text] = error

    async with toy(slots=3) as client, trio.open_nursery() as nursery:
        for text in ("ponder one", "fail", "ponder two"):
            nursery.start_soon(ask, client, text)
        while len(said) < 3:  # noqa: ASYNC110  answers tell no event
            await trio.sleep(0.02)
        assert (said["ponder one"], said["ponder two"]) == ("one", "two")
        error = said["fail"]
        assert isinstance(error, EngineCrashed)
        assert error.detail.startswith("the worker ended with status 3: reading 10 files")
        assert "Loading weights" not in error.detail
        with pytest.raises(RequestQuarantined, match="died under this request 2 times"):
            await answer(client, "fail")
        assert await answer(client, "say again") == "again"
        assert client.boards()["toy"].restarts == 2


@pytest.mark.slow
async def test_a_worker_that_dies_by_accident_costs_nobody_an_answer(toy: Toy) -> None:
    async with toy() as client:
        board, said = client.boards()["toy"], list[str]()

        async def ask() -> None:
            said.append(await answer(client, "ponder on it"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not board.running:  # noqa: ASYNC110  a board tells no counts
                await trio.sleep(0.01)
            assert board.pid is not None
            os.kill(board.pid, signal.SIGKILL)
        assert (said, board.restarts) == (["on it"], 1)


@pytest.mark.slow
async def test_a_model_that_never_loads_is_tried_more_and_more_slowly(toy: Toy) -> None:
    async with toy(device="slow", load_timeout=0.1) as client:
        board = client.boards()["toy"]
        with trio.fail_after(20):
            while board.restarts < 3:
                await board.changed.wait()
        assert board.error is not None
        assert "3 times in a row; tried again in 0.4 s" in board.error.detail
