"""What a service would not see is found before anything is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from r3mes.config.load import load
from r3mes.node.service import reach
from r3mes.node.service.reach import Program, of_config, of_program


def test_a_program_in_a_home_is_told_to_be_installed_elsewhere() -> None:
    program = Program(Path("/home/al/.local/bin/r3mes"), ())
    [found] = of_program(program)
    assert "/home/al/.local/bin/r3mes: a service sees nothing in /home" in str(found)
    assert "uv tool install" in found.do


def test_a_python_in_a_home_behind_a_link_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "HIDDEN", {tmp_path / "home": "ProtectHome=yes"})
    (tmp_path / "home").mkdir()
    (tmp_path / "python").symlink_to(tmp_path / "home" / "python")
    [found] = of_program(Program(Path("/usr/local/bin/r3mes"), (tmp_path / "python",)))
    assert str(tmp_path / "python") in found.what


def test_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "HIDDEN", {})
    (closed := tmp_path / "closed").mkdir(mode=0o700)
    (closed / "r3mes").touch(0o755)
    way = [*reversed(closed.parents), closed]
    first = next(one for one in way if not one.stat().st_mode & 0o001)
    [found] = of_program(Program(closed / "r3mes", ()))
    assert found.do == f"sudo chmod o+rx {first}"


def test_models_and_files_that_it_would_not_see(tmp_path: Path) -> None:
    text = """
wallet.passphrase_file = "/root/secret"
[[models]]
id = "/home/al/models/big"
[[models]]
id = "Qwen/Qwen3-0.6B"
"""
    file = tmp_path / "config.toml"
    config = load(file=file, env={}, flags={}, text=text).config
    model, passphrase = of_config(config, file)
    assert "sudo cp -rL /home/al/models/big /srv/models/" in model.do
    assert passphrase.what == "the passphrase in /root/secret"
