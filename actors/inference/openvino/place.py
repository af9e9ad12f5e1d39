"""Where the export of a model is kept; asked by the daemon, which imports no OpenVINO."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from r3mes.actors.inference.files import hash_model

MADE_BY = ("openvino", "torch", "transformers")


def export_place(cache: Path, model: Path) -> Path:
    """The directory for the export of ``model``, made if it is not there; reads all its files.

    Other files, or other versions of what exports them, have another one.
    """
    key = hashlib.sha256(hash_model(model))
    for name in MADE_BY:
        key.update(f"\n{name} {_version(name)}".encode())
    place = cache / "openvino" / key.hexdigest()[:32]
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
