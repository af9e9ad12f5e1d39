"""Runs commands in this process, in a data directory of the test's own."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from r3mes.chain.keys import keystore
from r3mes.node.__main__ import main


@dataclass
class Ran:
    code: int
    out: str
    err: str


class Cli:
    """Calls `main` as the ``r3mes`` script does; stdin is no terminal."""

    def __init__(self, datadir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.datadir, self._monkeypatch = datadir, monkeypatch

    def __call__(self, *words: str, stdin: str = "") -> Ran:
        out, err = io.StringIO(), io.StringIO()
        self._monkeypatch.setattr(sys, "argv", ["r3mes", "--datadir", str(self.datadir), *words])
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
        return Ran(code, out.getvalue(), err.getvalue())


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    cheap = keystore.KdfCost(ops=1, memory=8 << 20)
    monkeypatch.setattr(keystore.create_keystore, "__kwdefaults__", {"cost": cheap})
    for name in ("R3MES_CONFIG", "R3MES_NODE__DATADIR"):
        monkeypatch.delenv(name, raising=False)
    return Cli(tmp_path / "node", monkeypatch)
