"""What systemd says of the service."""

from __future__ import annotations

from dataclasses import dataclass

from r3mes.errors import NoSystemd, ServiceError
from r3mes.node.service.places import UNIT
from r3mes.node.service.steps import run

ASKED = "LoadState,ActiveState,SubState,UnitFileState,StatusText,MainPID,NRestarts,ExecMainStatus"


@dataclass(frozen=True, slots=True)
class UnitState:
    """The unit, in systemd's own words.

    Args:
        installed: whether systemd knows the unit.
        active: such as ``active``, ``activating``, ``failed``, ``inactive``.
        detail: such as ``running``, ``auto-restart``.
        enabled: such as ``enabled``: it starts with the machine.
        says: what the node last said of itself.
        exit_status: of the process that ran last.
    """

    installed: bool
    active: str
    detail: str
    enabled: str
    says: str
    pid: int
    restarts: int
    exit_status: int


def unit_state() -> UnitState:
    """Ask systemd.

    Raises:
        NoSystemd: none runs here.
    """
    try:
        said = run(["systemctl", "show", UNIT, f"--property={ASKED}"])
    except ServiceError as error:
        raise NoSystemd(error.detail) from None
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return UnitState(
        installed=found.get("LoadState") == "loaded",
        active=found.get("ActiveState", "unknown"),
        detail=found.get("SubState", ""),
        enabled=found.get("UnitFileState", ""),
        says=found.get("StatusText", ""),
        pid=int(found.get("MainPID") or 0),
        restarts=int(found.get("NRestarts") or 0),
        exit_status=int(found.get("ExecMainStatus") or 0),
    )
