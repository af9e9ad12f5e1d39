"""Where a model's files come from: the package, a directory, or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.files import check_model
from r3mes.errors import EngineError, ModelMissing

BUILTIN = "builtin"
FETCHED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
"""Never anything that is code or pickled."""


def find_model(source: str, revision: str) -> Path:
    """The directory with the model's files; blocks while a hub id is fetched.

    Raises:
        ModelMissing: no such directory, or the hub does not have it or cannot be reached.
    """
    if source == BUILTIN:
        return MODEL_DIR
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise ModelMissing(f"there is no directory {path}")
    return _fetch(source, revision)


def is_here(source: str, revision: str) -> bool:
    """Whether `find_model` needs no network; also True for what will never be found."""
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        return True
    if Path(source).is_dir():
        return True
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            source, revision=revision, allow_patterns=FETCHED, local_files_only=True
        )
        check_model(Path(found))
    except (LocalEntryNotFoundError, EngineError):
        return False
    return True


def _fetch(hub_id: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=FETCHED))
    except Exception as error:
        raise ModelMissing(
            f"{hub_id} at {revision} is neither a directory nor could it be fetched from the "
            f"Hugging Face hub: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}",
            do="check the id and the network, or give the path of a directory",
        ) from error
