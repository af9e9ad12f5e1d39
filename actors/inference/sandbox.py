"""What the worker process gives up before it reads a model: network, other processes, files.

Done from inside, so that it needs no privilege and holds wherever the node runs; the service unit
adds its own limits.  Memory is watched from outside (`r3mes.actors.inference.keeper`).
  Source: Linux ``Documentation/userspace-api/seccomp_filter``,
``prctl(2)``; libseccomp's rule that the architecture is checked before the number.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from r3mes.actors.inference.landlock import restrict_files

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_…; REFUSE | errno
EPERM, AF_UNIX = 1, 1
LOAD, JUMP_IF_EQUAL, JUMP_IF_GREATER_OR_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_… | BPF_K
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data


@dataclass(frozen=True, slots=True)
class _Machine:
    """Numbers of one architecture: its audit id, and of the calls that are refused."""

    audit: int
    socket: int
    refused: tuple[
        int, ...
    ]  # ptrace, process_vm_readv, process_vm_writev, io_uring_setup, pidfd_getfd


MACHINES = {
    "x86_64": _Machine(0xC000003E, 41, (101, 310, 311, 425, 438)),
    "aarch64": _Machine(0xC00000B7, 198, (117, 270, 271, 425, 438)),
}
X32_BIT = 0x40000000
"""Calls of the x32 table, which have other numbers, carry this bit."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _prctl(option: int, argument: int, more: object = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(argument), more, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def confine(model: Path, readable: Sequence[Path] = (), writable: Sequence[Path] = ()) -> None:
    """Give up everything that working with ``model`` does not need.

    Holds for the calling thread and those that it starts later.

    Args:
        model: whose files may be read.
        readable: other directories that may be read.
        writable: those that may be written as well.

    Raises:
        OSError: the kernel has no seccomp filters.
        NotImplementedError: neither x86_64 nor aarch64.
    """
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # prompts do not belong on a disk
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # it before the daemon
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    restrict_files(model, readable, writable)
    refuse_network()


def die_with_parent() -> None:
    """Be killed when the *thread* that started us ends, also while stopped or stuck.

    If it ended before this call, the end of standard input tells.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def refuse_network() -> None:
    """Only AF_UNIX sockets from here on, for this thread and all it starts; EPERM for others.

    Refused as well: io_uring, which opens sockets past this filter, and reaching into another
    process of the same user, such as the daemon that holds the keys.

    Raises:
        OSError: the kernel has no seccomp filters.
        NotImplementedError: neither x86_64 nor aarch64.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise NotImplementedError(f"no network filter for {platform.machine()}")
    code = _filter(machine)
    program = _Program(len(code) // 8, code)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))


def _filter(machine: _Machine) -> bytes:
    """The program, as an array of struct sock_filter."""
    refuse = _step(RETURN, REFUSE | EPERM)
    steps = [
        _step(LOAD, ARCHITECTURE_AT),
        _step(JUMP_IF_EQUAL, machine.audit, 1, 0),
        _step(RETURN, KILL),
        _step(LOAD, NUMBER_AT),
        _step(JUMP_IF_GREATER_OR_EQUAL, X32_BIT, 0, 1),
        refuse,
    ]
    for number in machine.refused:
        steps += [_step(JUMP_IF_EQUAL, number, 0, 1), refuse]
    steps += [
        _step(JUMP_IF_EQUAL, machine.socket, 1, 0),
        _step(RETURN, ALLOW),
        _step(LOAD, FIRST_ARGUMENT_AT),
        _step(JUMP_IF_EQUAL, AF_UNIX, 0, 1),
        _step(RETURN, ALLOW),
        refuse,
    ]
    return b"".join(steps)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)
