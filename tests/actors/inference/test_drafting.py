"""Drafts: what was said before is tried, and what does not hold is not tried for long."""

from __future__ import annotations

from r3mes.actors.inference.drafting import MOST, PAUSE, Draft

SAID = [*range(20), 3, 4, 5]


def test_what_followed_the_last_time_is_tried() -> None:
    assert Draft().propose(SAID, 10) == [6, 7]
    assert Draft().propose(SAID, 1) == [6]
    assert Draft().propose(SAID, 0) == []
    assert Draft().propose(list(range(20)), 10) == []
    assert Draft().propose([1, 2], 10) == []


def test_the_newest_of_several_is_taken() -> None:
    assert Draft().propose([1, 2, 3, 7, 7, 1, 2, 3, 9, 9, 1, 2, 3], 10) == [9, 9]


def test_a_circle_goes_on() -> None:
    draft = Draft()
    draft.learn(2, 2)
    draft.learn(4, 4)
    assert draft.propose([1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]


def test_more_is_tried_while_all_holds() -> None:
    draft, sizes = Draft(), []
    for _ in range(4):
        tried = draft.propose(SAID, 100)
        draft.learn(len(tried), len(tried))
        sizes.append(len(tried))
    assert sizes == [2, 4, MOST, MOST]
    draft.learn(MOST, 3)
    assert len(draft.propose(SAID, 100)) == 3


def test_what_never_holds_is_rarely_tried() -> None:
    draft, tried = Draft(), 0
    for _ in range(1000):
        if proposed := draft.propose(SAID, 100):
            tried += 1
            draft.learn(len(proposed), 0)
    assert tried < 1000 / PAUSE + 8
