"""How a command fails: one line on stderr, ``error R3-AREA-NNN: what. Why. What to do.``."""

from __future__ import annotations

import sys

from r3mes.errors import R3mesError


def tell(error: BaseException) -> None:
    """Write what happened to stderr."""
    sys.stderr.write(f"error {known(error)}\n")


def exit_code(error: BaseException) -> int:
    """The exit status that the registry of errors gives ``error``."""
    return known(error).kind.exit


def known(error: BaseException) -> R3mesError:
    """The error of ours in ``error``, which may be a group; else an internal one that names it."""
    if isinstance(error, R3mesError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [known(each) for each in error.exceptions]
        return next((each for each in found if type(each) is not R3mesError), found[0])
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return R3mesError(what, do="run it again with --debug and report what it shows")
