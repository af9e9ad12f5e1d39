"""What is said about a directory that holds half a model, before a worker is started for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from r3mes.actors.inference.files import check_model
from r3mes.errors import ModelMissing
from tests.actors.inference.conftest import EMPTY


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(EMPTY)
    with pytest.raises(ModelMissing, match=r"no tokenizer in .*tokenizer\.json") as caught:
        check_model(tmp_path)
    assert "copy the tokenizer's files" in str(caught.value.do)
    (tmp_path / "tokenizer.json").write_text("{}")
    check_model(tmp_path)
