"""A doorway lets those inside finish and nobody new in."""

import pytest
import trio

from r3mes.actors.doorway import Doorway
from r3mes.errors import NotReady


async def test_those_inside_finish_and_nobody_new_comes_in(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    doorway, ended = Doorway("requests"), []

    async def work(seconds: float) -> None:
        with doorway.enter():
            await trio.sleep(seconds)
            ended.append(seconds)

    nursery.start_soon(work, 1)
    nursery.start_soon(work, 5)
    await trio.testing.wait_all_tasks_blocked()
    assert doorway.inside == 2
    doorway.shut()
    with pytest.raises(NotReady, match="takes no new requests"), doorway.enter():
        pass
    await doorway.wait_empty()
    assert ended == [1, 5]


async def test_an_empty_doorway_is_empty_once_it_is_shut(autojump_clock: object) -> None:
    doorway = Doorway("requests")
    with trio.move_on_after(1) as waited:
        await doorway.wait_empty()
    assert waited.cancelled_caught
    doorway.shut()
    await doorway.wait_empty()
