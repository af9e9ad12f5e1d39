"""What a node says of a model that it has loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from r3mes.actors.inference.protocol import Loaded
from r3mes.ids import ModelHash


@dataclass(frozen=True, slots=True)
class Manifest:
    """A loaded model.

    Args:
        name: under which this node serves it.
        hash: of its files; the same on every node that has the same files.
        context: prompt and answer together, in tokens.
        numeric_class: engines of the same class give the same bits.
        chat: False if the model came without a chat template.
    """

    name: str
    hash: ModelHash
    context: int
    architecture: str
    parameters: int
    dtype: str
    device: str
    numeric_class: str
    chat: bool


def manifest_of(name: str, loaded: Loaded) -> Manifest:
    """The manifest of what a worker has loaded."""
    return Manifest(
        name=name,
        hash=ModelHash(loaded.hash),
        context=loaded.context,
        architecture=loaded.architecture,
        parameters=loaded.parameters,
        dtype=loaded.dtype,
        device=loaded.device,
        numeric_class=loaded.numeric_class,
        chat=bool(loaded.chat_template),
    )


def with_adapter(base: Manifest, name: str, model: ModelHash, numeric: str) -> Manifest:
    """The manifest of a loaded model with an adapter.

    Args:
        base: of the model without it.
        name: of both together.
        model: the hash of both together.
        numeric: how the adapter computes.
    """
    return replace(base, name=name, hash=model, numeric_class=f"{base.numeric_class}, {numeric}")
