"""The first ten minutes with a node: plays the commands of the page, and writes what they show.

``python -m tests.daemons.ten_minutes`` records ``docs/first-ten-minutes.md`` anew; the test beside
this plays it and compares.  What differs from machine to machine and from run to run (ids, times,
sizes, what a machine has) counts as equal, everything else must be as the page says.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.daemons import wait
from tests.daemons.terminal import Shown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-ten-minutes.md"
PASSPHRASE = "six words nobody else would say"  # noqa: S105  of a wallet that lives for a minute
USUAL_PORTS = {"R3MES_API__LISTEN": 7331, "R3MES_P2P__LISTEN": 7330, "R3MES_METRICS__LISTEN": 7332}
MACHINE = "Python|Memory|Disk|Clock|Engine|GPU|Sandbox"
"""Checks whose outcome is a matter of the machine."""
RUN, STOP = "r3mes run", "^C"
"""On the page: Ctrl-C in the terminal where the node runs."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it showed."""

    command: str
    shown: str


def steps_of(page: str) -> list[Step]:
    """The commands of the page in order, with what it says that they show."""
    return [
        Step(*_parted(part))
        for block in re.findall(r"^```console\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    ]


def _parted(part: str) -> tuple[str, str]:
    command, _, shown = part.partition("\n")
    return command, shown


def play(steps: list[Step], home: Path) -> Iterator[Step]:
    """Run the commands in turn as a user whose home is ``home``; the node runs beside them."""
    environment, real = _environment(home)
    person = Person()
    with ExitStack() as stack:
        node: Shown | None = None
        for step in steps:
            if step.command == RUN:
                node = stack.enter_context(Shown(f"exec {RUN}", environment, home, person))
                node.wait_for("twice stops at once.")
                shown = node.text
                _until_ready(environment)
            elif step.command == STOP:
                assert node is not None
                assert node.interrupt() == 0
                shown = ""
            else:
                shown = _run(step.command, environment, home, person)
            yield Step(step.command, _tidy(shown, home, real))


def _run(command: str, environment: dict[str, str], home: Path, person: Person) -> str:
    with Shown(command, environment, home, person) as shown:
        shown.wait()
        return shown.text


def _until_ready(environment: dict[str, str]) -> None:
    """A person looks until the model is loaded; nothing is shown of that."""
    url = f"http://{environment['R3MES_API__LISTEN']}/readyz"
    wait(lambda: httpx.get(url, timeout=10).is_success or None, "a model that is loaded")


def _environment(home: Path) -> tuple[dict[str, str], dict[int, int]]:
    """A clean one, with free ports; and which port stands for which usual one."""
    real: dict[int, int] = {}
    found = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "R3MES_P2P__LAN_DISCOVERY": "false",
    }
    for name, usual in USUAL_PORTS.items():
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            real[port := listener.getsockname()[1]] = usual
        found[name] = f"127.0.0.1:{port}"
    return found, real


class Person:
    """Types what is asked for: a passphrase, Enter, and words from the paper."""

    def __init__(self) -> None:
        self._paper: dict[int, str] = {}

    def __call__(self, text: str) -> str | None:
        self._paper |= {int(at): word for at, word in re.findall(r"(\d+)\. ([a-z]+)", text)}
        asked = text.rpartition("\n")[2]
        if not asked.endswith(": "):  # its last blank comes when the program listens
            return None
        if "assphrase" in asked or "confirmation" in asked:
            return f"{PASSPHRASE}\n"
        if asked.startswith("Press Enter"):
            return "\n"
        if match := re.match(r"Type words ([\d, ]+) to confirm", asked):
            return " ".join(self._paper[int(number)] for number in match[1].split(",")) + "\n"
        return None


def _tidy(shown: str, home: Path, real: dict[int, int]) -> str:
    """As it stands on the page: nothing secret, the usual ports, no lines of the log."""
    for port, usual in real.items():
        shown = shown.replace(f":{port}", f":{usual}").replace(f"/tcp/{port}", f"/tcp/{usual}")
    shown = shown.replace(str(home), "~")
    shown = re.sub(r"( ?\d{1,2}\.) [a-z]+", r"\1 ······", shown)
    shown = re.sub(r"(to confirm: ).*", r"\1······ ······ ······", shown)
    shown = re.sub(r"^\d{4}-\d\d-\d\dT\S+ (debug|info|warning) .*\n", "", shown, flags=re.MULTILINE)
    return re.sub(r" +$", "", shown, flags=re.MULTILINE)


def compared(shown: str) -> list[str]:
    """The lines of ``shown`` without what may differ."""
    shown = re.sub(rf"^ (ok|info|warn|fail) +({MACHINE}):.*\n", "", shown, flags=re.MULTILINE)
    shown = re.sub(r"^\d+ ok.*?\.  ", "… ok  ", shown, flags=re.MULTILINE)
    for pattern, name in (
        (r"12D3KooW[A-Za-z0-9…]+", "PEER"),
        (r"remes1[a-z0-9…]+", "ADDRESS"),
        (r"\b[0-9a-f]{12,64}\b", "HASH"),
        (r"\d{8}T\d{6}Z", "TIME"),
        (r"last 60 s:.*", "LATELY"),
        (r"\b(\d+[dhms]){1,2}\b", "AGE"),
        (r"\d+(\.\d+)*", "N"),
    ):
        shown = re.sub(pattern, name, shown)
    return [" ".join(line.split()) for line in shown.splitlines() if line.strip()]


def recorded(page: str, steps: list[Step]) -> str:
    """``page`` with what ``steps`` showed."""
    left = iter(steps)

    def block(match: re.Match[str]) -> str:
        commands = re.findall(r"^\$ ", match[1], re.MULTILINE)
        parts = (next(left) for _ in commands)
        return "```console\n" + "".join(f"$ {one.command}\n{one.shown}" for one in parts) + "```"

    return re.sub(r"^```console\n(.*?)^```$", block, page, flags=re.DOTALL | re.MULTILINE)


def main() -> None:
    """Record the page anew."""
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory(prefix="r3mes-ten-") as folder:
        PAGE.write_text(recorded(page, list(play(steps_of(page), Path(folder)))))


if __name__ == "__main__":
    main()
