"""A model for embeddings as files: a transformer and what is done with its states behind it.

``modules.json`` of sentence-transformers names the steps and their folders.  Steps with code of
their own and folders with pickled weights are refused, as `r3mes.actors.inference.files` does.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from r3mes.actors.inference.files import CONFIG_CAP, PICKLES, WEIGHTS, digests, hash_of
from r3mes.errors import ModelInvalid
from r3mes.ids import ModelHash

MODULES = "modules.json"
OURS = "sentence_transformers."
MOST_MODULES = 16
SETTINGS = (MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")
"""Of sentence-transformers, beside the transformer's own files."""


def check_steps(directory: Path) -> list[str]:
    """The folders of the steps, below ``directory``; the transformer's own is often ``""``.

    Raises:
        ModelInvalid: no steps, steps that run code of the model, or pickled weights.
    """
    folders = []
    for step in _steps(directory):
        kind, folder = str(step.get("type", "")), str(step.get("path", ""))
        if not kind.startswith(OURS):
            raise ModelInvalid(f"{directory} wants to run code of its own: {kind[:100]!r}")
        if ".." in PurePosixPath(folder).parts or folder.startswith("/"):
            raise ModelInvalid(
                f"{MODULES} in {directory} names a folder elsewhere: {folder[:100]!r}"
            )
        pickled = [file for pattern in PICKLES for file in (directory / folder).glob(pattern)]
        if pickled and not any((directory / folder).glob(WEIGHTS)):
            raise ModelInvalid(
                f"the weights in {directory / folder} are pickled, and a pickle can run code",
                do="use a copy with safetensors weights",
            )
        folders.append(folder)
    return folders


def _steps(directory: Path) -> list[dict[str, Any]]:
    file = directory / MODULES
    if not file.is_file():
        raise ModelInvalid(
            f"{directory} is no model for embeddings: there is no {MODULES}",
            do="name a model of sentence-transformers",
        )
    try:
        steps = json.loads(file.read_text("utf-8")) if file.stat().st_size <= CONFIG_CAP else None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{file} cannot be read: {error}") from None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ModelInvalid(f"{file} does not hold a list of steps")
    if not 1 <= len(steps) <= MOST_MODULES:
        raise ModelInvalid(f"{file} names {len(steps)} steps, and not 1 to {MOST_MODULES}")
    return steps


def hash_steps(directory: Path) -> ModelHash:
    """Over every file of the model and its steps that can change a vector."""
    found: dict[str, str] = {}
    for folder in dict.fromkeys(["", *check_steps(directory)]):
        prefix = f"{folder}/" if folder else ""
        found |= {prefix + name: digest for name, digest in digests(directory / folder).items()}
    found |= digests(directory, SETTINGS)
    return hash_of(dict(sorted(found.items())))
