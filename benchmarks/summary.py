"""From when tokens arrived to the figures that are compared; nothing but arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median

from benchmarks.asking import Answer

POISSON = "poisson"
LOADS = ("1", "4", "16")
OURS = "r3mes"
RIVALS = ("vllm", "transformers_serve", "llamacpp_bf16", "llamacpp_q8", "openvino")


@dataclass(frozen=True, slots=True)
class Row:
    """What one engine did with one model under one load.

    Args:
        load: requests at once, or ``poisson``.
        tok_per_s: of all requests together, the median of the plays.
        rss_mb: most resident memory of the engine's processes, under any load.
    """

    engine: str
    via: str
    model: str
    precision: str
    load: str
    tok_per_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    itl_p99_ms: float
    rss_mb: float


def tokens_per_s(answers: Sequence[Answer]) -> float:
    """From the first request to the last token."""
    begun = min(answer.asked_s for answer in answers)
    ended = max(answer.seen_s[-1] for answer in answers)
    return sum(answer.tokens for answer in answers) / (ended - begun)


def quantile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def timings(plays: Sequence[Sequence[Answer]]) -> tuple[float, float, float, float]:
    """Of a row: tokens per second, first token p50 and p95, between two pieces of text p99."""
    answers = [answer for play in plays for answer in play]
    firsts = [answer.first_s * 1000 for answer in answers]
    gaps = [(b - a) * 1000 for answer in answers for a, b in pairwise(answer.seen_s)]
    return (
        round(median(map(tokens_per_s, plays)), 1),
        round(median(firsts), 1),
        round(quantile(firsts, 0.95), 1),
        round(quantile(gaps or [0.0], 0.99), 1),
    )


def ratios_by_load(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Tokens per second of ours over those of each rival, the smallest of the models."""
    return {load: {rival: ratio(rows, OURS, rival, [load]) for rival in RIVALS} for load in LOADS}


def ratios(rows: Sequence[Row]) -> dict[str, float | None]:
    """The smallest over loads and models; None for a rival that was not measured."""
    return {rival: ratio(rows, OURS, rival) for rival in RIVALS}


def ratio(
    rows: Sequence[Row], ours: str, theirs: str, loads: Sequence[str] = LOADS
) -> float | None:
    """The smallest ratio of one engine to another; None if one was not measured."""
    rates = {(row.engine, row.model, row.load): row.tok_per_s for row in rows}
    found = [
        rate / rates[theirs, model, load]
        for (engine, model, load), rate in rates.items()
        if engine == ours and load in loads and (theirs, model, load) in rates
    ]
    return round(min(found), 3) if found else None


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Rows as the last line has them."""
    return [asdict(row) for row in rows]


def reasons(figures: Mapping[str, object], known: Mapping[str, str]) -> dict[str, str]:
    """Why each figure that is null was not measured.

    Args:
        figures: of the last line; ``ratios`` hold one figure for each rival.
        known: reasons by engine or by figure.
    """
    found = {}
    for name, value in figures.items():
        inner = value.items() if name == "ratios" and isinstance(value, dict) else ()
        for rival, one in inner:
            if one is None:
                found[f"{name}.{rival}"] = known.get(rival) or "it answered no play"
        if value is None:
            found[name] = known.get(name) or "what it is made of was not measured"
    return found
