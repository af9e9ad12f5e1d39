"""The ledger: a job is worked on once and billed once, in whatever order callers retry."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from r3mes.actors.ledger import GATEWAY, SERVER, Ledger, Receipt, Totals, Usage, place_of
from r3mes.actors.store import open_store
from r3mes.errors import AlreadyAnswered, NotFound
from r3mes.ids import Address, RequestHash

SUB = Address("remes1caller")
IDEM = b"i" * 16
OWN, BOB = "12D3KooWown", "12D3KooWbob"


def hash_of(number: int) -> RequestHash:
    return RequestHash(bytes([number]) * 32)


def receipt(number: int = 1, *, role: str = SERVER, idem: bytes = IDEM, at_ms: int = 5) -> Receipt:
    return Receipt(
        request_hash=hash_of(number),
        role=role,
        sub=SUB,
        idem=idem,
        peer="12D3KooWpeer",
        model="built-in",
        prompt_tokens=7,
        completion_tokens=3,
        price=11,
        status="stop",
        result=b"result",
        signature=b"signature",
        countersignature=None,
        created_ms=at_ms,
    )


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with open_store(tmp_path) as store:
        yield Ledger(store, now_ms=lambda: 1_000)


async def test_a_job_is_taken_once(ledger: Ledger) -> None:
    await ledger.open_job(SUB, IDEM, hash_of(1))
    with pytest.raises(AlreadyAnswered, match="being worked on") as running:
        await ledger.open_job(SUB, IDEM, hash_of(2))
    assert running.value.receipt is None
    await ledger.open_job(Address("remes1other"), IDEM, hash_of(3))


async def test_an_answered_job_comes_with_its_receipt(ledger: Ledger) -> None:
    await ledger.open_job(SUB, IDEM, hash_of(1))
    await ledger.finish_job(receipt())
    await ledger.finish_job(receipt())
    await ledger.drop_job(SUB, IDEM, hash_of(1))
    with pytest.raises(AlreadyAnswered, match="was answered") as answered:
        await ledger.open_job(SUB, IDEM, hash_of(2))
    assert answered.value.receipt == receipt()
    assert await ledger.page() == [receipt()]


async def test_a_job_that_failed_can_be_taken_again(ledger: Ledger) -> None:
    await ledger.open_job(SUB, IDEM, hash_of(1))
    await ledger.drop_job(SUB, IDEM, hash_of(1))
    await ledger.open_job(SUB, IDEM, hash_of(2))
    await ledger.finish_job(receipt(2))


async def test_a_request_that_failed_does_not_drop_the_job_of_another(ledger: Ledger) -> None:
    await ledger.open_job(SUB, IDEM, hash_of(1))
    await ledger.drop_job(SUB, IDEM, hash_of(2))
    with pytest.raises(AlreadyAnswered):
        await ledger.open_job(SUB, IDEM, hash_of(3))


async def test_an_answer_that_comes_late_is_not_billed_twice(ledger: Ledger) -> None:
    await ledger.open_job(SUB, IDEM, hash_of(1))
    await ledger.drop_job(SUB, IDEM, hash_of(1))
    await ledger.open_job(SUB, IDEM, hash_of(2))
    await ledger.finish_job(receipt(1))
    with pytest.raises(AlreadyAnswered) as second:
        await ledger.finish_job(receipt(2))
    assert second.value.receipt == receipt(1)
    assert await ledger.page() == [receipt(1)]


async def test_jobs_of_a_dead_process_are_dropped(ledger: Ledger) -> None:
    await ledger.open_job(SUB, IDEM, hash_of(1))
    await ledger.open_job(SUB, b"done", hash_of(2))
    await ledger.finish_job(receipt(2, idem=b"done"))
    assert await ledger.drop_unfinished() == 1
    assert await ledger.drop_unfinished() == 0
    await ledger.open_job(SUB, IDEM, hash_of(3))
    with pytest.raises(AlreadyAnswered):
        await ledger.open_job(SUB, b"done", hash_of(3))


async def test_the_first_countersignature_stays(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        await ledger.countersigned(hash_of(1), b"early")
    await ledger.finish_job(receipt())
    await ledger.countersigned(hash_of(1), b"first")
    await ledger.countersigned(hash_of(1), b"second")
    assert (await ledger.page())[0].countersignature == b"first"


async def test_both_sides_in_one_store(ledger: Ledger) -> None:
    """A node that asks itself over the network keeps two receipts of one request."""
    mine = replace(receipt(role=GATEWAY), countersignature=b"mine")
    await ledger.finish_job(receipt())
    await ledger.record(mine)
    await ledger.record(mine)
    assert {r.role: r.countersignature for r in await ledger.page()} == {
        SERVER: None,
        GATEWAY: b"mine",
    }
    with pytest.raises(ValueError, match="gateway's"):
        await ledger.record(receipt())


async def test_receipts_come_newest_first_in_pages(ledger: Ledger) -> None:
    for number in range(1, 8):
        await ledger.record(receipt(number, role=GATEWAY, at_ms=number * 10))
    first = await ledger.page(limit=3)
    assert [r.created_ms for r in first] == [70, 60, 50]
    await ledger.record(receipt(9, role=GATEWAY, at_ms=90))  # moves nothing
    rest = await ledger.page(after=place_of(first[-1]))
    assert [r.created_ms for r in rest] == [40, 30, 20, 10]
    assert [r.created_ms for r in await ledger.page(since_ms=60)] == [90, 70, 60]


async def test_pages_part_receipts_of_the_same_millisecond(ledger: Ledger) -> None:
    for number in range(1, 4):
        await ledger.record(receipt(number, role=GATEWAY))
        await ledger.finish_job(receipt(number, idem=bytes([number]) * 16))
    seen: list[Receipt] = []
    while page := await ledger.page(limit=1, after=place_of(seen[-1]) if seen else None):
        seen += page
    assert len({(r.request_hash, r.role) for r in seen}) == len(seen) == 6


async def test_totals_leave_out_what_the_node_asked_itself(ledger: Ledger) -> None:
    for number, role, peer in ((1, SERVER, BOB), (2, SERVER, OWN), (3, GATEWAY, BOB)):
        one = replace(receipt(number, role=role, idem=bytes([number]) * 16), peer=peer)
        await (ledger.finish_job(one) if role == SERVER else ledger.record(one))
    await ledger.record(replace(receipt(2, role=GATEWAY), peer=OWN))
    await ledger.finish_job(replace(receipt(4, idem=bytes(16), at_ms=90), peer=BOB, price=30))
    await ledger.countersigned(hash_of(4), b"theirs")
    assert await ledger.totals(OWN) == Totals(
        earned_uremes=41, served=2, unsigned=1, spent_uremes=11, asked=1, local=1
    )
    late = await ledger.totals(OWN, since_ms=90)
    assert (late.earned_uremes, late.served, late.unsigned, late.asked) == (30, 1, 0, 0)
    assert await ledger.totals(OWN, since_ms=91) == Totals(0, 0, 0, 0, 0, 0)


JOBS, REQUESTS = st.integers(0, 2), st.integers(1, 3)
STEPS = st.one_of(
    st.tuples(st.just("open"), JOBS, REQUESTS),
    st.tuples(st.just("drop"), JOBS, REQUESTS),
    st.tuples(st.just("finish"), JOBS, REQUESTS),
    st.tuples(st.just("restart"), st.just(0), st.just(0)),
)


class Model:
    """What the ledger should do, in dictionaries."""

    def __init__(self) -> None:
        self.taken: dict[int, int] = {}
        self.answers: dict[int, int] = {}

    def open(self, job: int, request: int) -> bool:
        fresh = job not in self.taken
        self.taken.setdefault(job, request)
        return fresh

    def drop(self, job: int, request: int) -> bool:
        if job not in self.answers and self.taken.get(job) == request:
            del self.taken[job]
        return True

    def finish(self, job: int, request: int) -> bool:
        holds = self.answers.setdefault(job, request) == request
        self.taken[job] = self.answers[job]
        return holds

    def restart(self, _job: int, _request: int) -> bool:
        self.taken = dict(self.answers)
        return True


async def step(ledger: Ledger, what: str, job: int, request: int) -> bool:
    idem, digest = bytes([job]) * 16, hash_of(job * 10 + request)
    try:
        match what:
            case "open":
                await ledger.open_job(SUB, idem, digest)
            case "drop":
                await ledger.drop_job(SUB, idem, digest)
            case "finish":
                await ledger.finish_job(receipt(job * 10 + request, idem=idem))
            case _:
                await ledger.drop_unfinished()
    except AlreadyAnswered:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
def test_retries_in_any_order_never_duplicate(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trio.run(follow, steps, tmp_path_factory.mktemp("ledger"))


async def follow(steps: list[tuple[str, int, int]], datadir: Path) -> None:
    model = Model()
    async with open_store(datadir) as store:
        ledger = Ledger(store, now_ms=lambda: 1)
        for what, job, request in steps:
            expected = getattr(model, what)(job, request)
            assert await step(ledger, what, job, request) == expected, (what, job, request)
        kept = {r.idem[0]: r.request_hash[0] - r.idem[0] * 10 for r in await ledger.page()}
        assert kept == model.answers
        assert len(await ledger.page()) == len(model.answers)


async def test_a_crowd_of_retries_at_once(ledger: Ledger) -> None:
    taken = []

    async def retry(number: int) -> None:
        try:
            await ledger.open_job(SUB, IDEM, hash_of(number))
            taken.append(number)
        except AlreadyAnswered:
            pass

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(retry, number)
    assert len(taken) == 1


async def test_usage_of_a_key_is_the_sum_of_its_receipts(ledger: Ledger) -> None:
    for number, key_id, at_ms in [(1, "one", 5), (2, "one", 9), (3, "other", 9), (4, None, 9)]:
        await ledger.record(replace(receipt(number, role=GATEWAY, at_ms=at_ms), key_id=key_id))
    assert await ledger.usage("one") == Usage(2, 14, 6, 22)
    assert await ledger.usage("one", since_ms=6) == Usage(1, 7, 3, 11)
    assert await ledger.usage("nobody") == Usage(0, 0, 0, 0)
