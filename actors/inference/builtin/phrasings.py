"""The corpus: topics with one answer and many phrasings, and the forms that questions come in.

`corpus/*.toml` is written by hand. A phrasing under ``held_out`` is never trained on: it measures.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS_DIR = Path(__file__).parent / "corpus"
UNKNOWN = "unknown"
"""Id of the topic whose answer is that the model does not know."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that the model can tell.

    Args:
        id: name of the topic, unique in the corpus.
        answer: the text to give, word for word.
        train: phrasings to learn from.
        held_out: phrasings that only the evaluation uses.
        weight: how often the topic is drawn in training, against 1 for the others.
    """

    id: str
    answer: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Forms:
    """How people wrap a question.

    Args:
        train: patterns with ``{q}`` for the question, seen in training.
        held_out: patterns that only the evaluation uses.
        swaps: groups of expressions that can stand for one another.
        systems: system messages that applications send.
        outside_forms: patterns with ``{w}`` that ask about anything but the node.
        outside_words: words for them.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    swaps: tuple[tuple[str, ...], ...]
    systems: tuple[str, ...]
    outside_forms: tuple[str, ...]
    outside_words: tuple[str, ...]


def load_topics(folder: Path = CORPUS_DIR) -> tuple[Topic, ...]:
    """All topics, in the order of file names and of the files."""
    return tuple(_topics(folder))


def load_forms(folder: Path = CORPUS_DIR) -> Forms:
    """The forms of `forms.toml`."""
    raw = tomllib.loads((folder / "forms.toml").read_text())
    return Forms(
        train=tuple(raw["train"]),
        held_out=tuple(raw["held_out"]),
        swaps=tuple(tuple(group) for group in raw["swaps"]),
        systems=tuple(raw["systems"]),
        outside_forms=tuple(raw["outside_forms"]),
        outside_words=tuple(raw["outside_words"]),
    )


def _topics(folder: Path) -> Iterator[Topic]:
    for path in sorted(folder.glob("*.toml")):
        if path.name == "forms.toml":
            continue
        for raw in tomllib.loads(path.read_text())["topic"]:
            yield Topic(
                id=raw["id"],
                answer=raw["answer"],
                train=tuple(raw["train"]),
                held_out=tuple(raw["held_out"]),
                weight=raw.get("weight", 1.0),
            )


def words(phrasing: str) -> frozenset[str]:
    """The words of a phrasing without case, marks and order: equal sets are no real difference."""
    return frozenset(re.findall(r"[\w\[\]]+", phrasing.lower().replace("'", "")))
