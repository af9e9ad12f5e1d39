"""What is wrong with a node, and the one thing to do about it: the first of a list of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Status: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to do, and why."""

    why: str
    do: str


def advise(status: Status) -> Advice | None:
    """The most pressing thing; None when all is well."""
    return next((advice for look in QUESTIONS if (advice := look(status))), None)


def _stopping(status: Status) -> Advice | None:
    if any("stopping" in reason for reason in status["reasons"]):
        return Advice("the node is stopping", "wait, then start it again: r3mes run")
    return None


def _locked(status: Status) -> Advice | None:
    if status["wallet"].get("locked"):
        return Advice("the wallet is locked: nothing is answered", "r3mes wallet unlock")
    return None


def _model_failed(status: Status) -> Advice | None:
    for model in status["models"]:
        if model["state"] == "failed":
            why = f"the model {model['name']} cannot be loaded: {model['why']}"
            return Advice(why, "r3mes doctor")
    return None


def _loading(status: Status) -> Advice | None:
    for model in status["models"]:
        if model["state"] == "loading":
            return Advice(f"the model {model['name']} is being loaded", "wait a moment")
    return None


def _unloaded(status: Status) -> Advice | None:
    names = [model["name"] for model in status["models"] if model["state"] == "unloaded"]
    if status["ready"] or not names:
        return None
    return Advice(f"the model {names[0]} was unloaded", f"r3mes models load {names[0]}")


def _not_ready(status: Status) -> Advice | None:
    if status["ready"]:
        return None
    do = "serve a model ([[models]]) or name peers (p2p.bootstrap): r3mes config path"
    return Advice("; ".join(status["reasons"]), do if not status["models"] else "r3mes logs")


def _wallet(status: Status) -> Advice | None:
    if status["wallet"]["backed_up"]:
        return None
    return Advice("nobody has the words of the wallet", "r3mes wallet backup")


def _backup(status: Status) -> Advice | None:
    if status.get("last_backup_at", 0) is not None:
        return None
    return Advice("there is no backup of this node", "r3mes backup create")


QUESTIONS: tuple[Callable[[Status], Advice | None], ...] = (
    _stopping,
    _locked,
    _model_failed,
    _loading,
    _unloaded,
    _not_ready,
    _wallet,
    _backup,
)
"""From what stops the node to what it could do without for a while."""
