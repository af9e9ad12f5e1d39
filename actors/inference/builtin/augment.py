"""Makes a question look as people type it: other case, missing marks, typing errors, other forms.

Everything is drawn from the generator that is handed in, so that a seed fixes the training data.
"""

from __future__ import annotations

import random
import re

from r3mes.actors.inference.builtin.phrasings import UNKNOWN, Forms, Topic

_NEIGHBOURS = {
    a: b
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for a, b in zip(row, row[1:] + row[-2], strict=True)
}


def ask(topic: Topic, forms: Forms, rng: random.Random) -> str:
    """A question about `topic`, as somebody may type it."""
    if topic.id == UNKNOWN and rng.random() < 0.5:
        question = rng.choice(forms.outside_forms).replace("{w}", rng.choice(forms.outside_words))
    else:
        question = rng.choice(topic.train)
    return vary(question, forms, rng)


def vary(question: str, forms: Forms, rng: random.Random) -> str:
    """One way to type `question`; sometimes the question as it stands."""
    for _ in range(rng.choices((0, 1, 2, 3), weights=(45, 30, 15, 10))[0]):
        question = _swap(question, forms, rng)
    if rng.random() < 0.12:
        question = _drop_word(question, rng)
    if rng.random() < 0.3:
        question = rng.choice(forms.train).replace("{q}", question)
    if rng.random() < 0.35:
        question = question.lower()
    elif rng.random() < 0.1:
        question = question[:1].upper() + question[1:]
    if rng.random() < 0.3:
        question = _without_marks(question, rng)
    for _ in range(rng.choices((0, 1, 2), weights=(70, 22, 8))[0]):
        question = _mistype(question, rng)
    return question


def _swap(question: str, forms: Forms, rng: random.Random) -> str:
    """Replaces one expression by another of its group, where the question has any."""
    lower = question.lower()
    found = [(e, g) for g in forms.swaps for e in g if re.search(rf"\b{re.escape(e)}\b", lower)]
    if not found:
        return question
    expression, group = rng.choice(found)
    other = rng.choice(group)
    return re.sub(
        rf"\b{re.escape(expression)}\b", lambda _: other, question, count=1, flags=re.IGNORECASE
    )


def _drop_word(question: str, rng: random.Random) -> str:
    parts = question.split()
    if len(parts) < 5:
        return question
    del parts[rng.randrange(len(parts))]
    return " ".join(parts)


def _without_marks(question: str, rng: random.Random) -> str:
    question = question.rstrip("?!. ")
    return question.replace("'", "").replace(",", "") if rng.random() < 0.5 else question


def _mistype(question: str, rng: random.Random) -> str:
    """One typing error inside a word; digits stay, since one digit tells two error codes apart."""
    places = [
        i
        for i in range(1, len(question) - 1)
        if question[i - 1 : i + 2].isalpha() and question[i].islower()
    ]
    if not places:
        return question
    i = rng.choice(places)
    before, here, after = question[:i], question[i], question[i + 1 :]
    match rng.randrange(4):
        case 0:
            return before + after
        case 1:
            return before + here + here + after
        case 2:
            return before + after[0] + here + after[1:]
        case _:
            return before + _NEIGHBOURS.get(here, here) + after
