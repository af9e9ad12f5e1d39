"""A nonce is taken once, whatever the clock does, and memory has an end."""

import random
import sys

import pytest

from r3mes.actors.requests.header import MAX_TTL_MS, SKEW_MS
from r3mes.actors.requests.replay import WINDOW_MS, ReplayGuard
from r3mes.errors import EnvelopeReplayed, Overloaded, Refused

START = 1_764_000_000_000


class Node:
    """A guard behind the same checks of time as the verifier's."""

    def __init__(self, **caps: int) -> None:
        self.now = START
        self.guard = ReplayGuard(lambda: self.now, **caps)

    def take(self, nonce: int, *, signer: str = "remes1a", exp_ms: int | None = None) -> None:
        exp_ms = self.now + 60_000 if exp_ms is None else exp_ms
        self.guard.remember(signer, nonce.to_bytes(16, "big"), exp_ms)

    def accepts(self, nonce: int, exp_ms: int) -> bool:
        if not -SKEW_MS <= exp_ms - self.now <= MAX_TTL_MS + SKEW_MS:
            return False
        try:
            self.take(nonce, exp_ms=exp_ms)
        except Refused:
            return False
        return True


def test_window_covers_the_longest_life_of_a_request() -> None:
    assert WINDOW_MS >= MAX_TTL_MS + 2 * SKEW_MS


def test_nonce_is_taken_once_per_signer() -> None:
    node = Node()
    node.take(1)
    node.take(2)
    node.take(1, signer="remes1b")
    with pytest.raises(EnvelopeReplayed, match="before"):
        node.take(1)


def test_nonce_is_kept_as_long_as_its_request_can_be_accepted() -> None:
    node = Node()
    exp_ms = node.now + MAX_TTL_MS + SKEW_MS
    node.take(1, exp_ms=exp_ms)
    while node.now <= exp_ms + SKEW_MS:
        with pytest.raises(EnvelopeReplayed):
            node.take(1, exp_ms=exp_ms)
        node.now += 1_000


def test_old_nonces_make_room() -> None:
    node = Node()
    for nonce in range(100):
        node.take(nonce)
    for nonce in range(2):
        node.now += WINDOW_MS
        node.take(1_000 + nonce)
    assert len(node.guard) == 2


def test_full_memory_refuses_and_forgets_nothing() -> None:
    node = Node(capacity=10)
    for nonce in range(10):
        node.take(nonce, signer=f"remes1{nonce}")
    with pytest.raises(Overloaded) as busy:
        node.take(10)
    assert busy.value.retry_after_s
    for nonce in range(10):
        with pytest.raises(EnvelopeReplayed):
            node.take(nonce, signer=f"remes1{nonce}")
    node.now += WINDOW_MS
    node.take(10)  # the next generation has room


def test_one_account_cannot_take_all_the_memory() -> None:
    node = Node(per_signer=5)
    for nonce in range(5):
        node.take(nonce)
        node.now += 40_000  # over two generations
    with pytest.raises(Overloaded, match="this account"):
        node.take(5)
    node.take(5, signer="remes1b")


def test_defaults_are_those_promised() -> None:
    node = Node()
    for nonce in range(4_000):
        node.take(nonce)
    with pytest.raises(Overloaded):
        node.take(4_000)


def test_clock_that_jumps_ahead_and_back_lets_no_replay_through() -> None:
    node = Node()
    exp_ms = node.now + 60_000
    node.take(1, exp_ms=exp_ms)
    for _ in range(2):  # both generations are dropped while the clock is wrong
        node.now += 600_000
        node.take(2 + node.now, exp_ms=node.now + 60_000)
    node.now = START + 1_000
    with pytest.raises(EnvelopeReplayed, match="older than the memory"):
        node.take(1, exp_ms=exp_ms)
    node.now += 60_000  # who signs anew is served
    node.take(3, exp_ms=node.now + 60_000)


def test_clock_set_back_does_not_stop_ageing() -> None:
    node = Node(capacity=1)
    node.now = START + 3_600_000
    node.take(1)
    node.now = START
    with pytest.raises(Overloaded):
        node.take(2)
    node.now += WINDOW_MS
    node.take(2)


def test_frozen_clock_fills_up_and_refuses() -> None:
    node = Node(capacity=50)
    for nonce in range(50):
        node.take(nonce)
    with pytest.raises(Overloaded):
        node.take(50)


@pytest.mark.parametrize("seed", range(20))
def test_no_request_is_accepted_twice_under_a_wild_clock(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 reproducible, not secret
    node = Node()
    sent: list[tuple[int, int]] = []
    accepted: set[int] = set()
    for nonce in range(1_500):
        jumps = [0, 1, 1_000, 30_000, 180_000, 600_000, -600_000, -3_600_000, 3_600_000]
        node.now += rng.choices(jumps, [50, 50, 50, 20, 2, 1, 1, 1, 1])[0]
        again = sent and rng.random() < 0.6
        this, exp_ms = rng.choice(sent) if again else (nonce, node.now + rng.randint(1, MAX_TTL_MS))
        sent.append((this, exp_ms))
        if node.accepts(this, exp_ms):
            assert this not in accepted
            accepted.add(this)
    assert len(accepted) > 20


def test_full_generation_takes_18_mb() -> None:
    node = Node(per_signer=1 << 30)
    for nonce in range(200_000):
        node.take(nonce)
    seen = node.guard._young.seen
    assert sys.getsizeof(seen) + 200_000 * sys.getsizeof(bytes(16)) < 19 << 20
