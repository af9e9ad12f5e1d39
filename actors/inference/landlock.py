"""Which files the worker may open: its program, its model, devices; not the daemon's keys.

Landlock also keeps a process from tracing those outside, and so from reading the daemon's memory.
Source: Linux ``Documentation/userspace-api/landlock``, ABI 1 (Linux 5.13).  Where the kernel has
it not, the worker goes without: file modes do not help against a process of the same user, but
the model is then all that could betray it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import r3mes.actors
import r3mes.errors

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
EVERYTHING = (1 << 13) - 1
"""Every right of ABI 1: what is not allowed below is refused."""
READ = EXECUTE | READ_FILE | READ_DIR
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/sys", "/opt", "/nix")
PROC = ("self", "cpuinfo", "meminfo", "stat", "filesystems", "sys", "driver")
"""Not all of it: the environment of other processes would be readable."""


def restrict_files(model: Path, readable: Sequence[Path], writable: Sequence[Path]) -> None:
    """From here on this thread, and what it starts, opens nothing else.

    The temporary directory may be written, which the daemon makes for each worker, and what is
    ``writable``.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = struct.pack("=Q", EVERYTHING)
    rules = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return  # a kernel without Landlock
    try:
        for path in (*_readable(model), *readable):
            _allow(libc, rules, path, READ)
        _allow(libc, rules, Path("/dev"), READ | WRITE_FILE)
        for path in (Path(tempfile.gettempdir()), *writable):
            _allow(libc, rules, path, EVERYTHING)
        if libc.syscall(RESTRICT_SELF, rules, 0):
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(rules)


def _readable(model: Path) -> Iterator[Path]:
    yield from map(Path, (*SYSTEM, sys.prefix, sys.base_prefix, *_libraries()))
    yield from (Path("/proc", name) for name in PROC)
    yield Path(r3mes.errors.__file__).parent.parent  # an exporter begins its imports from there
    yield Path(r3mes.actors.__file__).parent
    yield model
    if model.is_dir():
        yield from model.glob("*")  # a hub snapshot holds links to files elsewhere
        yield from model.glob("*/*")  # and so do the folders of a model for embeddings


def _libraries() -> list[str]:
    """Where packages are that lie outside of this environment but are named by it."""
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this system
    try:
        rights = rights if path.is_dir() else rights & ~READ_DIR
        rule = struct.pack("=Qi", rights, handle)
        if libc.syscall(ADD_RULE, rules, PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), f"landlock_add_rule for {path}")
    finally:
        os.close(handle)
