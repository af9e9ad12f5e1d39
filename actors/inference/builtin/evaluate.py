"""Asks the model what was held out: ``python -m r3mes.actors.inference.builtin.evaluate --json``.

An answer is right when it is the topic's answer word for word (white space aside), greedy, in the
precision of the weights. Held out are phrasings of known topics, whole forms of wrapping them, and
both behind an earlier conversation.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.builtin.phrasings import Forms, Topic, load_forms, load_topics

Message = Mapping[str, str]
ANSWER_TOKENS = 128
ROWS = 64
SEED = 1


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation to answer, and the answer that is right."""

    topic: str
    messages: tuple[Message, ...]
    answer: str


class Answerer:
    """The model of a directory, loaded as any other Hugging Face model, answering greedily."""

    def __init__(self, folder: Path = MODEL_DIR) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")

    def answer(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """The answers, in the order of the conversations.

        Prompts of one length share a batch, so that no padding can change a bit of an answer.
        """
        prompts = [self._prompt(messages) for messages in conversations]
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            by_length[len(prompt)].append(i)
        answers = [""] * len(prompts)
        for places in by_length.values():
            for start in range(0, len(places), ROWS):
                some = places[start : start + ROWS]
                for i, text in zip(some, self._write([prompts[i] for i in some]), strict=True):
                    answers[i] = text
        return answers

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        ids: list[int] = self._tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=True, return_dict=False
        )
        return ids

    def _write(self, prompts: list[list[int]]) -> list[str]:
        import torch

        ids = torch.tensor(prompts)
        with torch.inference_mode():
            written = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS
            )
        texts: list[str] = self._tokenizer.batch_decode(
            written[:, ids.shape[1] :], skip_special_tokens=True
        )
        return texts


def plain(topics: Sequence[Topic]) -> list[Case]:
    """Every held-out phrasing, by itself."""
    return [
        Case(t.id, ({"role": "user", "content": question},), t.answer)
        for t in topics
        for question in t.held_out
    ]


def in_forms(topics: Sequence[Topic], forms: Forms) -> list[Case]:
    """Every held-out phrasing inside a held-out form: neither was ever seen."""
    return [
        Case(
            case.topic,
            ({"role": "user", "content": form.replace("{q}", case.messages[0]["content"])},),
            case.answer,
        )
        for i, case in enumerate(plain(topics))
        for form in [forms.held_out[i % len(forms.held_out)]]
    ]


def in_conversations(topics: Sequence[Topic], forms: Forms) -> list[Case]:
    """Every held-out phrasing behind a system message and two earlier questions."""
    rng = random.Random(SEED)  # noqa: S311 not a secret
    cases = []
    for case in plain(topics):
        earlier: list[Message] = [{"role": "system", "content": rng.choice(forms.systems)}]
        for topic in rng.sample(list(topics), 2):
            earlier.append({"role": "user", "content": rng.choice(topic.train)})
            earlier.append({"role": "assistant", "content": topic.answer})
        cases.append(Case(case.topic, (*earlier, *case.messages), case.answer))
    return cases


def wrong(cases: Sequence[Case], answers: Sequence[str]) -> list[tuple[Case, str]]:
    """The cases whose answer is not the right one."""
    return [
        (case, answer)
        for case, answer in zip(cases, answers, strict=True)
        if answer.split() != case.answer.split()
    ]


def evaluate(folder: Path = MODEL_DIR) -> dict[str, Any]:
    """All held-out questions.

    Returns:
        ``held_out, right, accuracy`` for plain phrasings; the same behind ``forms_`` and
        ``conversations_``; ``mistakes``: each plain phrasing that went wrong, with the answer.
    """
    begin = time.perf_counter()
    topics, forms = load_topics(), load_forms()
    answerer = Answerer(folder)
    report: dict[str, Any] = {}
    for prefix, cases in (
        ("", plain(topics)),
        ("forms_", in_forms(topics, forms)),
        ("conversations_", in_conversations(topics, forms)),
    ):
        mistakes = wrong(cases, answerer.answer([case.messages for case in cases]))
        right = len(cases) - len(mistakes)
        report |= {
            f"{prefix}held_out": len(cases),
            f"{prefix}right": right,
            f"{prefix}accuracy": round(right / len(cases), 4),
        }
        if not prefix:
            report["mistakes"] = [
                {"topic": c.topic, "question": c.messages[-1]["content"], "answer": a}
                for c, a in mistakes
            ]
    return report | {"topics": len(topics), "seconds": round(time.perf_counter() - begin, 1)}


def main() -> None:
    """Command line: the report for people on stderr; ``--json`` adds it as a line of stdout."""
    parser = argparse.ArgumentParser(prog="python -m r3mes.actors.inference.builtin.evaluate")
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="directory of the model")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args()
    report = evaluate(options.model)
    for mistake in report["mistakes"]:
        sys.stderr.write(f"{mistake['topic']}: {mistake['question']!r} -> {mistake['answer']!r}\n")
    for prefix in ("", "forms_", "conversations_"):
        sys.stderr.write(
            f"{prefix}held_out: {report[prefix + 'right']} of {report[prefix + 'held_out']} right\n"
        )
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
