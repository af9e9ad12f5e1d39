"""What every benchmark shares: its two flags, the facts about the machine, the closing line.

Progress for people goes to stderr, so that the last line of stdout is one JSON object that a
program can read whatever came before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path


def arguments(what: str, **more: str) -> argparse.Namespace:
    """Parse ``--json`` and ``--quick`` into a namespace with ``json`` and ``quick``.

    Args:
        what: the program does.
        more: names of further options that take a text, and what they are for.
    """
    parser = argparse.ArgumentParser(description=what)
    for name, purpose in more.items():
        parser.add_argument(f"--{name}", help=purpose)
    parser.add_argument(
        "--json", action="store_true", help="what happens anyway: the last line is JSON"
    )
    parser.add_argument("--quick", action="store_true", help="a smaller run, at most 60 s")
    return parser.parse_args()


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """What the figures were measured on: they mean little without it."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),  # 1-minute average of runnable tasks
        "python": platform.python_version(),
    }


def print_result(figures: Mapping[str, object]) -> None:
    """Print ``figures`` as the one line of JSON that ends the run."""
    print(json.dumps(dict(figures)), flush=True)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
