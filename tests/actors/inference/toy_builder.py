"""A builder that compiles nothing: it says what stands in the model's ``refusal``."""

from __future__ import annotations

from pathlib import Path

from r3mes.actors.inference.pipes import commands, reports, say
from r3mes.actors.inference.protocol import Build, Built

if __name__ == "__main__":
    out = reports()
    build = next(commands())
    assert isinstance(build, Build)
    with Path(build.programs, "runs").open("a") as runs:
        runs.write("x")
    refusal = Path(build.model, "refusal")
    if refusal.exists():
        say(out, Built(refusal.read_text()))
    else:
        if not Path(build.model, "in-vain").exists():
            Path(build.programs, "built").touch()
        say(out, Built(""))
