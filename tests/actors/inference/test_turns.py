"""Whose turn it is: no owner's flood delays another's single request."""

from __future__ import annotations

from itertools import count

import trio

from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.protocol import Start, pack_ids
from r3mes.actors.inference.turns import OWNERS, Turns

numbers = count(1)


def ticket(owner: str, *, max_new: int = 100, prompt: int = 8) -> Ticket:
    start = Start(
        id=next(numbers), prompt=pack_ids(range(prompt)), emitted=b"", temperature=0.0, top_k=0,
        top_p=1.0, seed=0, max_new=max_new, stop_ids=b"", adapter=0, owner=owner.encode(),
    )  # fmt: skip
    return Ticket(start, deadline=trio.current_time() + 60)


def add(turns: Turns, *tickets: Ticket) -> None:
    for one in tickets:
        turns[one.start.id] = one


def serve(turns: Turns, number: int) -> list[str]:
    """Owners in the order in which ``number`` of them began; each wrote all that it asked for."""
    owners = []
    for _ in range(number):
        one = next(iter(turns.values()))
        del turns[one.start.id]
        turns.begin(one)
        one.position = one.start.max_new
        turns.end(one)
        owners.append(one.start.owner.decode())
    return owners


async def test_one_owner_is_served_in_order() -> None:
    turns = Turns()
    tickets = [ticket("a") for _ in range(5)]
    add(turns, *tickets)
    assert list(turns.values()) == tickets
    assert len(turns) == 5


async def test_a_flood_does_not_delay_a_single_request() -> None:
    turns = Turns()
    add(turns, *(ticket("flood") for _ in range(100)))
    serve(turns, 3)
    assert turns.ahead(b"single") == 1
    add(turns, ticket("single"))
    assert (turns.ahead(b"single"), turns.ahead(b"flood")) == (3, 98)
    assert serve(turns, 3).index("single") <= 1


async def test_who_was_away_has_saved_nothing() -> None:
    turns = Turns()
    add(turns, *(ticket("busy") for _ in range(60)))
    serve(turns, 40)
    add(turns, *(ticket("back") for _ in range(40)))
    first = serve(turns, 20)
    assert 9 <= first.count("back") <= 11


async def test_the_share_is_of_work_and_not_of_requests() -> None:
    turns = Turns()
    add(turns, *(ticket("long", max_new=300) for _ in range(60)))
    add(turns, *(ticket("short", max_new=100) for _ in range(60)))
    first = serve(turns, 40)
    assert 28 <= first.count("short") <= 32


async def test_what_was_expected_is_corrected_by_what_was_written() -> None:
    turns = Turns()
    for _ in range(30):
        add(turns, ticket("brief", max_new=500), ticket("talker", max_new=500))
    began = []
    for _ in range(20):
        one = next(iter(turns.values()))
        del turns[one.start.id]
        turns.begin(one)
        one.position = 10 if one.start.owner == b"brief" else 500
        turns.end(one)
        began.append(one.start.owner)
    assert began.count(b"brief") > 15


async def test_a_full_queue_makes_room_for_who_has_fewer() -> None:
    turns = Turns()
    tickets = [ticket("flood") for _ in range(4)]
    add(turns, *tickets, ticket("other"))
    assert turns.to_displace(b"new") is tickets[-1]
    assert turns.to_displace(b"flood") is None
    alone = Turns()
    add(alone, ticket("a"), ticket("b"))
    assert alone.to_displace(b"c") is None


async def test_one_that_is_tried_again_goes_first_and_is_charged_once() -> None:
    turns = Turns()
    first, second, other = ticket("a"), ticket("a"), ticket("b")
    add(turns, first, second, other)
    del turns[first.start.id]
    turns.begin(first)
    assert next(iter(turns.values())) is other
    turns.put_back(first)
    assert next(iter(turns.values())) in (first, other)
    assert [one for one in turns.values() if one.start.owner == b"a"] == [first, second]


async def test_ever_new_names_take_bounded_memory() -> None:
    turns = Turns()
    waiting = ticket("patient")
    add(turns, waiting)  # so that there is always something to do
    for number in range(3 * OWNERS):
        stranger = ticket(f"stranger {number}")
        add(turns, stranger)
        del turns[stranger.start.id]
        turns.begin(stranger)
        stranger.position = stranger.start.max_new
        turns.end(stranger)
    assert len(turns._finishes) <= OWNERS + 1
    assert next(iter(turns.values())) is waiting


async def test_old_debts_are_forgotten_when_all_have_what_they_wanted() -> None:
    turns = Turns()
    add(turns, *(ticket("a") for _ in range(5)))
    serve(turns, 5)
    add(turns, ticket("a"), ticket("b"))
    assert serve(turns, 2) == ["a", "b"]  # who came first, as if nothing had been
