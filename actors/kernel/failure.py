"""What really went wrong, taken out of the groups that trio wraps around it.

A crash that cancels its siblings arrives as a `BaseExceptionGroup` that mixes real errors with
`trio.Cancelled`; neither ``except Exception`` nor ``except Refused`` sees what is inside.
"""

from __future__ import annotations

import trio


def real_error(error: BaseException) -> BaseException | None:
    """``error`` without cancellations and without groups of one; None if nothing else is in it."""
    found: BaseException | None = error
    if isinstance(error, BaseExceptionGroup):
        found = error.split(trio.Cancelled)[1]
    elif isinstance(error, trio.Cancelled):
        return None
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
