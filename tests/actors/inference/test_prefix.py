"""What is kept of prompts: found by all that it depends on, the unused forgotten first."""

from __future__ import annotations

from pathlib import Path

import torch

from r3mes.actors.inference.pages import Paged
from r3mes.actors.inference.prefix import PrefixCache, names_of

PROMPT = tuple(range(40))


def test_a_name_says_everything_that_a_piece_depends_on() -> None:
    names = names_of(PROMPT, 10, b"owner", b"adapter")
    assert len(names) == len(set(names)) == 4
    assert names_of(PROMPT[:39], 10, b"owner", b"adapter") == names[:3]
    assert names_of((9, *PROMPT[1:]), 10, b"owner", b"adapter")[3] != names[3]
    assert names_of(PROMPT, 10, b"other", b"adapter")[0] != names[0]
    assert names_of(PROMPT, 10, b"ownera", b"dapter")[0] != names[0]


def test_the_unused_goes_first_and_an_end_before_its_beginning() -> None:
    cache: PrefixCache[str] = PrefixCache()
    old, new = names_of(PROMPT, 10, b"old"), names_of(PROMPT, 10, b"new")
    for names in (old, new):
        for end in range(1, 5):
            cache.keep(names[:end], f"{end}")
    assert cache.find(old[:4]) == "4"
    for _ in range(4):
        cache.drop_oldest()
    assert [cache.find(new[:end]) for end in range(1, 5)] == [None] * 4
    cache.drop_oldest()
    assert [cache.find(old[:end]) for end in range(1, 5)] == ["1", "2", "3", None]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_is_taken_when_it_is_written_and_can_be_given_back() -> None:
    before = resident()
    paged = Paged((4, 1 << 24), torch.bfloat16)  # 128 MiB
    assert resident() - before < 16 << 20
    paged.tensor[1] = 1
    assert resident() - before > 31 << 20
    paged.tensor[2, 5] = 7
    paged.give_back(1)
    assert resident() - before < 16 << 20
    assert not paged.tensor[1].any()
    assert paged.tensor[2, 5] == 7
