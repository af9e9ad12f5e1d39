"""One error out of the groups that nurseries wrap around it."""

from __future__ import annotations


def single(error: Exception) -> Exception:
    """The one error inside ``error``, or ``error`` itself if it is no group or holds several."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
