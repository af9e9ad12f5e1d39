"""Pin what `in.txt` asks for, with hashes and without download addresses.

Writes `base.txt` and, apart because it is some gigabytes, `torch.txt`: so that `make setup`
can say what comes, and so that a machine without a GPU may take another build of torch.
What is pinned stays as it is unless an argument says otherwise, such as ``--upgrade``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
FILES = (("base.txt", False), ("torch.txt", True))
UV = Path(sys.executable).with_name("uv")
HEAVY = re.compile(r"(torch|triton|nvidia-|cuda-)")


def main() -> None:
    """Resolve, then split by name."""
    with TemporaryDirectory() as folder:
        pinned = Path(folder, "pinned.txt")
        pinned.write_text("".join((HERE / name).read_text() for name, _ in FILES))
        command = [UV, "--system-certs", "pip", "compile", "--universal", "--python-version=3.11"]
        command += ["--override=override.txt", "--generate-hashes", "--no-emit-index-url"]
        command += ["--no-header", "--no-annotate", "--quiet", f"--output-file={pinned}", "in.txt"]
        subprocess.run([*command, *sys.argv[1:]], cwd=HERE, check=True)  # noqa: S603
        entries = re.split(r"\n(?=\S)", pinned.read_text().strip())
    for name, heavy in FILES:
        chosen = [entry for entry in entries if bool(HEAVY.match(entry)) is heavy]
        (HERE / name).write_text("\n".join(chosen) + "\n")


if __name__ == "__main__":
    main()
