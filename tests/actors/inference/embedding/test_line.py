"""Who is embedded next: in turns, in batches of a bounded size, suspects by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from r3mes.actors.inference.embedding.line import Line, Ticket
from r3mes.actors.inference.protocol import pack_ids


def ticket(*lengths: int) -> Ticket:
    return Ticket([pack_ids(range(length)) for length in lengths], deadline=9.0)


def line_of(*tickets: Ticket) -> Line:
    line = Line()
    for one in tickets:
        line.add(one)
    return line


def whose(batch: Sequence[tuple[Ticket, int]], *tickets: Ticket) -> list[int]:
    return [tickets.index(one) for one, _ in batch]


def test_a_single_text_does_not_wait_for_a_thousand() -> None:
    many, one = ticket(*[10] * 1000), ticket(10)
    assert whose(line_of(many, one).take(50), many, one) == [0, 1, 0, 0, 0]


def test_a_batch_counts_its_padding_and_has_one_row_at_least() -> None:
    long, short = ticket(100), ticket(10)
    line = line_of(short, long)
    assert whose(line.take(110), short, long) == [0]
    assert whose(line.take(50), short, long) == [1]
    assert line.take(50) == []


def test_rows_go_by_length() -> None:
    mixed = ticket(9, 3, 6)
    assert [row for _, row in line_of(mixed).take(100)] == [1, 2, 0]


def test_suspects_share_no_batch() -> None:
    innocent, suspect, other = ticket(5, 5), ticket(5, 5), ticket(5)
    suspect.suspect = other.suspect = True
    line = line_of(innocent, suspect, other)
    batches = [whose(line.take(100), innocent, suspect, other) for _ in range(4)]
    assert batches == [[0], [1, 1], [2], [0]]


def test_a_batch_is_put_back_in_front_with_what_is_left_of_it() -> None:
    one, two = ticket(5, 5, 5), ticket(5)
    line = line_of(one, two)
    line.put_back(line.take(10))
    assert (len(line), line.tokens) == (2, 20)
    again = line.take(100)
    assert sorted(whose(again, one, two)) == [0, 0, 0, 1]


def test_who_has_gone_is_not_embedded() -> None:
    one, two = ticket(5), ticket(5)
    line = line_of(one, two)
    line.remove(one)
    line.remove(one)
    assert whose(line.take(100), one, two) == [1]
