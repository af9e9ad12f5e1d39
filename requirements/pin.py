"""Pin what `in.txt` asks for, with hashes and without download addresses.

Writes `base.txt` and, apart because it is some gigabytes, `torch.txt`: so that `make setup`
can say what comes, and so that a machine without a GPU may take another build of torch.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
UV = Path(sys.executable).with_name("uv")
HEAVY = re.compile(r"(torch|triton|nvidia-|cuda-)")


def main() -> None:
    """Resolve, then split by name."""
    command = [UV, "--system-certs", "pip", "compile", "--universal", "--python-version", "3.11"]
    command += ["--override", "override.txt", "--generate-hashes", "--no-emit-index-url"]
    command += ["--no-header", "--no-annotate", "--quiet", "in.txt", *sys.argv[1:]]
    pinned = subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout  # noqa: S603
    entries = re.split(r"\n(?=\S)", pinned.strip())
    for name, heavy in (("base.txt", False), ("torch.txt", True)):
        chosen = [entry for entry in entries if bool(HEAVY.match(entry)) is heavy]
        (HERE / name).write_text("\n".join(chosen) + "\n")


if __name__ == "__main__":
    main()
