"""``docs/metrics.md``, made from the declarations."""

from __future__ import annotations

from r3mes.node.metrics.declared import DECLARED, Metric

HEAD = """\
# Metrics

Made from `node/metrics/declared.py` by `python -m r3mes.node.reference`.

A node serves them at `http://127.0.0.1:7332/metrics` (`metrics.listen`), in Prometheus' text form
or in OpenMetrics for those who ask for it. There is no key: whoever reaches the listener reads
figures, and nothing but figures: no label holds a peer, key, account, address or request. Models
that are not configured on the node count as `other`. Besides these there are the `process_…`
metrics of every Prometheus client (resident memory, CPU, open files). Counters start at 0 with the
node.

`share/prometheus/` holds a configuration and alert rules, `share/grafana/` a dashboard (installed
under `PREFIX/share/r3mes/`); a test holds every expression in them to the names here.

| metric | type | labels | what it says |
|---|---|---|---|
"""


def metrics_page() -> str:
    """The whole page."""
    return HEAD + "".join(map(_row, DECLARED.values()))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |\n"
