"""Dashboard and alerts name what exists; Debian's Prometheus scrapes a node and takes the rules."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.daemons import Daemon, wait
from r3mes.node.metrics.declared import DECLARED

SHARE = Path(__file__).parents[2] / "share"
RULES = SHARE / "prometheus" / "r3mes.rules.yml"
NAME = re.compile(r"\b(?:r3mes|process)_\w+")
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Debian's package prometheus is not installed",
)


def registered() -> set[str]:
    """Every name that an expression may use."""
    names = {"process_resident_memory_bytes"}
    for name, metric in DECLARED.items():
        ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {name + end for end in ends}
    return names


def panels() -> dict[str, list[str]]:
    """The expressions of each panel, and those of annotations."""
    dashboard = json.loads((SHARE / "grafana" / "r3mes.json").read_text())
    found = {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }
    return found | {"annotations": [one["expr"] for one in dashboard["annotations"]["list"]]}


def alerts() -> list[str]:
    """The text of each alert."""
    return RULES.read_text().split("- alert: ")[1:]


@pytest.mark.parametrize(
    ("panel", "expressions"), panels().items(), ids=lambda part: str(part)[:30]
)
def test_panels_name_registered_metrics(panel: str, expressions: list[str]) -> None:
    for expression in expressions:
        names = set(NAME.findall(expression))
        assert names, panel
        assert names <= registered(), panel


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.split("\n")[0])
def test_alerts_name_registered_metrics_a_command_and_a_runbook(alert: str) -> None:
    name, rest = alert.split("\n", 1)
    expression = rest.split("for:")[0]
    names = set(NAME.findall(expression))
    assert names <= registered()
    assert names or 'up{job="r3mes"}' in expression
    assert "command: r3mes " in rest
    assert f"runbook_url: docs/operations.md#{name.lower()}\n" in rest + "\n"


@pytest.mark.prometheus
@needs_prometheus
def test_promtool_takes_rules_and_configuration() -> None:
    for check in (("rules", RULES), ("config", SHARE / "prometheus" / "prometheus.yml")):
        checked = subprocess.run(
            ["promtool", "check", check[0], str(check[1])], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.prometheus
@pytest.mark.slow
@needs_prometheus
def test_a_real_prometheus_scrapes_a_node(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    port = free_port()
    shutil.copytree(SHARE / "prometheus", tmp_path / "prometheus")
    file = tmp_path / "prometheus" / "prometheus.yml"
    text = file.read_text().replace("127.0.0.1:7332", node.running.metrics).replace("15s", "1s")
    file.write_text(text)
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as prometheus:
        try:
            wait(lambda: query(port, 'up{job="r3mes"} == 1'), "a scrape that went well")
            assert wait(lambda: query(port, "r3mes_build_info"), "the node's own metrics")
            groups = ask(port, "rules", {})["data"]["groups"]
            assert len(groups[0]["rules"]) == len(alerts())
        finally:
            prometheus.terminate()
            node.end()


def query(port: int, expression: str) -> list[Any] | None:
    try:
        return ask(port, "query", {"query": expression})["data"]["result"] or None
    except (httpx.HTTPError, ValueError):
        return None  # it is still starting


def ask(port: int, what: str, params: dict[str, str]) -> Any:
    return httpx.get(f"http://127.0.0.1:{port}/api/v1/{what}", params=params, timeout=5).json()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
