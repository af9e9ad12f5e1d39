"""What makes token ids of messages, and text of token ids, read from a model's files.

Neither torch nor transformers is needed for it, so that engines without them have it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3mes.actors.inference.files import read_json
from r3mes.errors import ModelInvalid, ModelMissing

TOKENIZER_CAP = 48 * 1024 * 1024
"""Bytes of a tokenizer; Gemma's has 33 million."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


@dataclass(frozen=True, slots=True)
class TextParts:
    """What the daemon needs to make token ids from messages, and text from token ids."""

    tokenizer: str
    chat_template: str
    special_tokens: tuple[tuple[str, str], ...]


def read_text_parts(directory: Path) -> TextParts:
    """Tokenizer and template of the model in ``directory``.

    Raises:
        ModelMissing: there is no tokenizer.json.
        ModelInvalid: one of the files cannot be used.
    """
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise ModelMissing(
            f"there is no tokenizer.json in {directory}",
            do="copy the tokenizer's files from where the model came from",
        )
    described = _optional(directory / "tokenizer_config.json")
    tokens = {**_optional(directory / "special_tokens_map.json"), **described}
    special = [(name, _text_of(tokens.get(name))) for name in SPECIAL]
    return TextParts(
        tokenizer=_text(file),
        chat_template=_template(directory, described),
        special_tokens=tuple((name, text) for name, text in special if text),
    )


def stop_ids(directory: Path) -> tuple[int, ...]:
    """The ends of an answer that the model's own files name."""
    files = ("generation_config.json", "config.json")
    named = [_optional(directory / file).get("eos_token_id") for file in files]
    ids = {one for value in named for one in (value if isinstance(value, list) else [value])}
    return tuple(sorted(one for one in ids if isinstance(one, int)))


def _template(directory: Path, described: Mapping[str, Any]) -> str:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return _text(file)
    template = described.get("chat_template", "")
    if isinstance(template, list):  # several by name
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[0].get("template") if named else ""
    return template if isinstance(template, str) else ""


def _text_of(token: object) -> str:
    """A special token is its text, or an object around it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _optional(file: Path) -> Mapping[str, Any]:
    return read_json(file) if file.is_file() else {}


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > TOKENIZER_CAP:
            raise ModelInvalid(f"{file} is larger than {TOKENIZER_CAP} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelInvalid(f"{file} cannot be read: {error}") from None
