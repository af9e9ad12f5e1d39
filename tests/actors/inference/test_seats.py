"""Who gets a slot and when, and who gives one back when memory is short."""

from __future__ import annotations

import random

import torch

from r3mes.actors.inference.engine import Job
from r3mes.actors.inference.reserve import padded
from r3mes.actors.inference.sampling import Sampling
from r3mes.actors.inference.seats import PIECE, Seated, Seats
from r3mes.actors.inference.slots import piece_pass

CONTEXT = 2048
PAGE_TOKENS = 4096 // 16
"""Of the keys below: 4 numbers of 4 bytes."""


def job(number: int, prompt: int = 10, max_new: int = 10) -> Job:
    return Job(number, tuple(range(prompt)), (), Sampling(), max_new, frozenset())


def marked(seats: Seats, answer: Seated) -> None:
    """Write the answer's own number as the keys and values of its whole prompt."""
    while answer.cached < answer.prompt:
        piece = answer.piece(answer.cached)
        rows = torch.full((piece.rows, 1, 4), float(answer.number))
        seats.cache.write(0, piece_pass([piece], torch.device("cpu")), rows, rows)
        answer.cached = piece.end


def read(seats: Seats, answer: Seated) -> set[float]:
    keys, _ = seats.cache.look(0, slice(answer.slot, answer.slot + 1), answer.cached)
    return set(keys.flatten().tolist())


def test_running_answers_hold_the_first_slots_whatever_comes_and_goes() -> None:
    chance = random.Random(3)  # noqa: S311  no secret
    seats, number = Seats(5, CONTEXT, None), 0
    for _ in range(300):
        if seats.occupied < 5:
            seats.add(job(number, prompt=chance.choice((3, 100, 400, 1900))))
            number += 1
        seats.fill()
        if seats.reading and chance.random() < 0.6:
            answer = chance.choice(seats.reading)
            marked(seats, answer)
            seats.run(answer)
        if (seats.running or seats.reading) and chance.random() < 0.4:
            seats.remove(chance.choice([*seats.running, *seats.reading]))
        assert [answer.slot for answer in seats.running] == [*range(len(seats.running))]
        slots = [answer.slot for answer in (*seats.running, *seats.reading)]
        assert len(slots) == len(set(slots))
        for answer in seats.running:
            assert read(seats, answer) == {float(answer.number)}
            # Longer ones that were here before have given back all but parts of pages.
            keys, _ = seats.cache.look(0, slice(answer.slot, answer.slot + 1), CONTEXT)
            assert not keys[:, :, padded(answer.cached) + PAGE_TOKENS :].any()


def test_one_waits_until_memory_is_expected_to_do() -> None:
    seats = Seats(4, CONTEXT, 1024)
    for number in range(3):
        seats.add(job(number, prompt=300, max_new=200))  # 512 tokens in the end, padded
    seats.fill()
    assert [answer.number for answer in seats.reading] == [0, 1]
    seats.remove(seats.reading[0])
    seats.fill()
    assert [answer.number for answer in seats.reading] == [1, 2]


def test_one_alone_always_begins() -> None:
    seats = Seats(4, CONTEXT, 1024)
    seats.add(job(0, prompt=900, max_new=CONTEXT))
    seats.fill()
    assert [answer.number for answer in seats.reading] == [0]


def test_what_was_kept_goes_before_anybody_is_put_back() -> None:
    seats = Seats(4, CONTEXT, 1024)
    for number in range(2):
        seats.add(job(number, prompt=2 * PIECE, max_new=10))
    seats.fill()
    first, second = seats.reading
    for answer in (first, second):
        marked(seats, answer)
        seats.keep(answer, answer.piece(PIECE))
    assert seats.kept == 2 * padded(2 * PIECE) + PIECE
    seats.make_room(1024 - seats.kept + 1)
    assert seats.reading == [first, second]
    assert seats.kept == 2 * padded(2 * PIECE)
    seats.make_room(1024 - seats.kept + 1)
    assert seats.reading == [first]
    assert (list(seats.waiting), second.cached) == ([second], 0)
