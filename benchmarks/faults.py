"""What the real daemon does when its surroundings fail: five faults, each on a node of its own.

The disk fills up, another process locks the database, ten times more is asked than the node can
write, it is stopped in the middle of answers, its worker freezes.  Everything that was acknowledged
to a client on the way is looked for in the node's database afterwards.

    python -m benchmarks.faults --json
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.crowd import overload
from benchmarks.report import arguments, machine, print_result, say
from benchmarks.store_faults import disk_full, foreign_lock
from benchmarks.worker_faults import drains, worker_stopped

Figures = dict[str, object]


def main() -> None:
    """Run every fault and print the figures."""
    quick: bool = arguments(__doc__ or "").quick
    steps: list[tuple[str, Callable[[Path], Figures]]] = [
        ("disk full", disk_full),
        ("foreign lock", lambda folder: foreign_lock(folder, hold_s=2 if quick else 8)),
        ("overload", lambda folder: overload(folder, seconds=5 if quick else 60)),
        ("drain", lambda folder: drains(folder, count=1 if quick else 20)),
        ("worker stopped", worker_stopped),
    ]
    figures: Figures = {}
    lost: list[object] = []
    with tempfile.TemporaryDirectory(prefix="r3mes-faults-") as folder:
        for number, (name, step) in enumerate(steps):
            say(f"{name} …")
            found = step(Path(folder, str(number)))
            say(f"{name}: {found}")
            lost.append(found.pop("acked_lost"))
            figures |= found
    figures["acked_lost"] = sum(count for count in lost if isinstance(count, int))
    print_result(figures | machine())


if __name__ == "__main__":
    main()
