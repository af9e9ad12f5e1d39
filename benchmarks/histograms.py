"""What a node's histograms counted between two looks at its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.daemons import Daemon


def look(node: Daemon, name: str) -> Counter[float]:
    """How many values up to each bound a histogram has counted, whatever their labels."""
    text = httpx.get(f"http://{node.running.metrics}/metrics", timeout=10).text
    counted: Counter[float] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{name}_bucket":
                counted[float(sample.labels["le"])] += int(sample.value)
    return counted


def quantile_between(
    before: Mapping[float, int], after: Mapping[float, int], share: float
) -> float:
    """What ``share`` of the values in between did not exceed, in a bucket as Prometheus says."""
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0) for bound in bounds]
    wanted, low, below = share * counts[-1], 0.0, 0
    for bound, count in zip(bounds[:-1], counts[:-1], strict=True):
        if count >= wanted:
            return low + (bound - low) * (wanted - below) / max(count - below, 1)
        low, below = bound, count
    return low
