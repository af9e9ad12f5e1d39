"""How a command fails: one line on stderr, ``error R3-AREA-NNN: what. Why. What to do.``."""

from __future__ import annotations

import errno
import sys

from r3mes.errors import ConfigError, R3mesError, StoreFull


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
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        return _unusable(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return R3mesError(what, do="run it again with --debug and report what it shows")


def _unusable(error: OSError) -> R3mesError:
    """A file that cannot be read or written: the operator's matter, not a fault of the program."""
    detail = f"{error.filename or 'where the output goes'}: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return StoreFull(detail)
    return ConfigError(
        detail, do="let this user read and write there, or choose another place with --datadir"
    )
