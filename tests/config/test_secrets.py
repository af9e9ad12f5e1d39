"""Files with secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from r3mes.config.secrets import read_secret, replace_secret, write_secret
from r3mes.errors import ConfigError, InsecureFile


def test_written_for_the_owner_alone_and_never_over(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    write_secret(path, "r3k_secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_secret(path) == "r3k_secret"
    with pytest.raises(FileExistsError):
        write_secret(path, "other")
    assert read_secret(path) == "r3k_secret"


def test_a_power_cut_leaves_all_of_a_secret_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_handle: int) -> None:
        raise OSError(5, "the disk is gone")

    path = tmp_path / "key"
    monkeypatch.setattr("os.fsync", cut)
    with pytest.raises(OSError, match="gone"):
        write_secret(path, "r3k_secret")
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_secret_is_on_the_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    write_secret(tmp_path / "key", "old")
    replace_secret(tmp_path / "key", "new")
    assert synced == [False, True] * 2
    assert read_secret(tmp_path / "key") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5000, b"\xff\xfe"])
def test_content_that_is_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        read_secret(path)


def test_loose_mode_missing_and_directory(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match=r"No such file.* Name a file that is there"):
        read_secret(path)
    path.write_text("secret")
    path.chmod(0o640)
    with pytest.raises(InsecureFile):
        read_secret(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_secret(tmp_path)
