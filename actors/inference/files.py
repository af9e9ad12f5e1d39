"""A model as files: which of them count, whether they are safe to load, and their common hash.

Only safetensors are ever read as weights: a pickle runs code when it is loaded.  A model that
needs Python code of its own is refused as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r3mes.errors import ModelInvalid, ModelMissing
from r3mes.ids import ModelHash

WEIGHTS = "*.safetensors"
EXPORT = ("openvino_model.xml", "openvino_model.bin")
"""What OpenVINO reads; the weights of a directory without safetensors."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
COUNTED = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
"""Besides the weights: every file that can change an answer."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""One of these turns text into tokens."""
CONFIG_CAP = 4 * 1024 * 1024
"""Bytes of a JSON file that describes a model; real ones have a few thousand."""


def check_model(directory: Path) -> None:
    """Refuse what cannot or must not be loaded, before a worker is started for it.

    Raises:
        ModelMissing: no such directory, or no model in it.
        ModelInvalid: its weights are pickled only, or its description is not readable.
    """
    if not directory.is_dir():
        raise ModelMissing(f"there is no directory {directory}")
    if not (directory / "config.json").is_file():
        raise ModelMissing(f"there is no config.json in {directory}")
    config = read_json(directory / "config.json")
    if "model_type" not in config:
        raise ModelInvalid(f"config.json in {directory} names no model_type")
    if not weight_files(directory):
        _refuse_weightless(directory)
    if not any((directory / name).is_file() for name in TOKENIZERS):
        raise ModelMissing(
            f"there is no tokenizer in {directory}: none of {', '.join(TOKENIZERS)}",
            do="copy the tokenizer's files from where the model came from",
        )


def _refuse_weightless(directory: Path) -> None:
    pickled = [file.name for pattern in PICKLES for file in sorted(directory.glob(pattern))]
    if pickled:
        raise ModelInvalid(
            f"the weights in {directory} are pickled ({pickled[0]}), and a pickle can run code",
            do="use a copy with safetensors weights, or convert it once on a machine of no value",
        )
    raise ModelMissing(f"there are no weights (*.safetensors) in {directory}")


def weight_files(directory: Path) -> list[Path]:
    """The files with the weights: safetensors, or else an export for OpenVINO."""
    exported = [directory / name for name in EXPORT]
    whole = all(file.is_file() for file in exported)
    return sorted(directory.glob(WEIGHTS)) or (exported if whole else [])


def weight_bytes(directory: Path) -> int:
    """Size of the weights on disk."""
    return sum(file.stat().st_size for file in weight_files(directory))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelInvalid: too large, not JSON, or not an object.
    """
    try:
        if file.stat().st_size > CONFIG_CAP:
            raise ModelInvalid(f"{file} is larger than {CONFIG_CAP} bytes")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{file} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelInvalid(f"{file} does not hold a JSON object")
    return value


def hash_model(directory: Path) -> ModelHash:
    """SHA-256 over the lines that ``sha256sum`` prints for the files, sorted by name."""
    return hash_of(digests(directory))


def digests(directory: Path, counted: Iterable[str] = COUNTED) -> dict[str, str]:
    """SHA-256, in hex, of the weights and of each other file that counts, sorted by name."""
    names = {name for name in counted if (directory / name).is_file()}
    names |= {file.name for file in weight_files(directory)}
    return {name: digest(directory / name) for name in sorted(names)}


def hash_of(files: Mapping[str, str]) -> ModelHash:
    """The hash of a model with these `digests`."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    return ModelHash(hashlib.sha256(listing.encode()).digest())


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
