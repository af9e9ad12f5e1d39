"""What a worker says of the model that it has loaded, whatever engine runs it."""

from __future__ import annotations

from pathlib import Path

from r3mes.actors.inference.engine import Numerics
from r3mes.actors.inference.files import digests, hash_of
from r3mes.actors.inference.protocol import Loaded
from r3mes.actors.inference.text_parts import TextParts


def loaded_as(directory: Path, numerics: Numerics, text: TextParts, *, slots: int) -> Loaded:
    """The report; reads every file that counts."""
    files = digests(directory)
    return Loaded(
        hash=hash_of(files),
        architecture=numerics.architecture,
        parameters=numerics.parameters,
        dtype=numerics.dtype,
        device=numerics.device,
        context=numerics.context,
        vocabulary=numerics.vocabulary,
        numeric_class=numerics.numeric_class,
        slots=slots,
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        special_tokens=text.special_tokens,
        stop_ids=numerics.stop_ids,
        files=tuple(files.items()),
        room=numerics.room,
        native=numerics.native,
        unbuilt=numerics.unbuilt,
    )
