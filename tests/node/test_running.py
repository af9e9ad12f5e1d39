"""A node that was killed must not seem to run because its pid has gone to another program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r3mes.node.running import FILE, Running, read_running, write_running

HERE = Running(os.getpid(), "peer", "wallet", "127.0.0.1:1", ())


def test_a_node_that_runs(tmp_path: Path) -> None:
    write_running(tmp_path, HERE)
    found = read_running(tmp_path)
    assert found is not None
    assert (found.pid, found.api) == (HERE.pid, HERE.api)


def test_its_pid_is_that_of_another_program_now(tmp_path: Path) -> None:
    write_running(tmp_path, HERE)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes().replace(b'"pid":%d' % HERE.pid, b'"pid":%d' % os.getppid()))
    assert read_running(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}'])
def test_half_a_file_is_no_node(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert read_running(tmp_path) is None
