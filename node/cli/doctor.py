"""`r3mes doctor`: tries out what a node needs, and says what to do about what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from r3mes.config.schema import Config, Node
from r3mes.errors import ConfigError
from r3mes.node.cli.output import say, show, show_json
from r3mes.node.cli.session import Session, session
from r3mes.node.running import read_running

if TYPE_CHECKING:
    from r3mes.node.doctor.finding import Finding, Subject

FAILED = 1
"""The exit status when a check failed."""


def doctor(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Try out what a node needs on this machine."""
    import trio

    findings = trio.run(_examine, subject_of(session(context)), not json)
    if json:
        show_json([_plain(finding) for finding in findings])
    else:
        show("\n".join(summary(findings)))
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(FAILED)


def subject_of(current: Session) -> Subject:
    """What there is to examine; a configuration that is wrong is a finding, not an end."""
    from r3mes.node.doctor.finding import Subject

    wrong: ConfigError | None = None
    try:
        config = current.load_or_default().config
    except ConfigError as error:
        node = Node(datadir=current.datadir) if current.datadir else Node()
        wrong, config = error, Config(node=node)
    return Subject(config, current.file, wrong, read_running(config.node.datadir))


async def _examine(subject: Subject, aloud: bool) -> list[Finding]:
    from r3mes.node.doctor.checks import run_checks

    say("This takes some seconds: each thing is really tried.")
    found = []
    async for finding in run_checks(subject):
        found.append(finding)
        if aloud:
            show(line(finding))
    return found


def line(finding: Finding) -> str:
    """One finding for people."""
    advice = f"   -> {finding.do}" if finding.do else ""
    return f" {finding.verdict:<5} {finding.name}: {finding.what}{advice}"


def summary(findings: Sequence[Finding]) -> Iterator[str]:
    """How many of each kind, and the one thing to do next."""
    counts = [(sum(one.verdict == verdict for one in findings), text) for verdict, text in
              (("ok", "ok"), ("warn", "to improve"), ("fail", "failed"))]  # fmt: skip
    yield ", ".join(f"{count} {text}" for count, text in counts if count) + _next(findings)


def _next(findings: Sequence[Finding]) -> str:
    """The first thing to do: what failed, then what is missing, then what could be better."""
    for verdict in ("fail", "info", "warn"):
        for finding in findings:
            command = re.fullmatch(r"run `(.*)`", finding.do)
            if finding.verdict == verdict and (command or verdict == "fail"):
                return f".   next: {command[1] if command else finding.do}"
    return "."


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "name": finding.name,
        "verdict": finding.verdict,
        "what": finding.what,
        "do": finding.do,
    }
