"""A node that comes back from its backup: the same identity, wallet and keys, on another place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.daemons import Daemon


@pytest.mark.apart
@pytest.mark.slow
def test_a_node_comes_back(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    first = daemon("first").start()
    file = tmp_path / "backup.tar.gz"
    first.command("backup", "create", str(file), "--with-passphrases", check=True)
    refused = first.command("backup", "restore", str(file))
    assert (refused.returncode, "R3-STORE-006" in refused.stderr) == (75, True)
    before, key = first.running, first.key
    first.end()
    assert first.command("status").returncode == 69

    again = daemon("again")
    shutil.rmtree(again.folder)
    again.folder.mkdir(mode=0o700)
    again.command("backup", "restore", str(file), check=True)
    again.command("init", "--quiet", check=True)  # the key of the command line, for one
    again.start()
    assert (again.running.peer_id, again.running.wallet) == (before.peer_id, before.wallet)
    assert again.key != key
    (again.folder / "api-key").write_text(f"{key}\n")  # an application goes on with its own
    assert again.get("/v1/models").status_code == 200
