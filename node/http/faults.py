"""What pydantic found wrong, as our error; the first fault is enough to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r3mes.errors import BadRequest


def bad_request(faults: Sequence[Mapping[str, Any]], *, whole: str = "the body") -> BadRequest:
    """The error that names the field at fault.

    Args:
        faults: as ``ValidationError.errors()`` gives them.
        whole: what to call it all, when no field is at fault.
    """
    first: Mapping[str, Any] = faults[0] if faults else {}
    where = [str(part) for part in first.get("loc", ()) if part != "body"]
    if first.get("type") == "json_invalid":
        return BadRequest(f"{whole} is not valid JSON")
    what = str(first.get("msg", "invalid")).replace(" after validation", "")
    detail = f"{'.'.join(where) or whole}: {what[:1].lower()}{what[1:]}"
    return BadRequest(detail, param=where[0] if where else None)
