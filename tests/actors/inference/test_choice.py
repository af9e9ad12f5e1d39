"""Which engine a model gets, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import trio

from r3mes.actors.inference import choice as choosing
from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.choice import Choice, choose
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.settings import ModelSettings
from r3mes.errors import EngineMissing

Install = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Have only these packages found."""

    def install(*names: str) -> None:
        monkeypatch.setattr(
            choosing, "find_spec", lambda name: ModuleSpec(name, None) if name in names else None
        )

    return install


def model(tmp_path: Path, *files: str) -> Path:
    for file in files:
        (tmp_path / file).write_bytes(b"")
    return tmp_path


def test_torch_is_the_first_choice(tmp_path: Path, installed: Install) -> None:
    installed("torch", "transformers", "openvino")
    both = model(tmp_path, "model.safetensors", "openvino_model.xml")
    assert choose(ModelSettings("m", "x"), both).engine == "torch"


def test_an_export_without_safetensors_is_for_openvino(tmp_path: Path, installed: Install) -> None:
    installed("torch", "transformers", "openvino")
    chosen = choose(ModelSettings("m", "x"), model(tmp_path, "openvino_model.xml"))
    assert chosen.engine == "openvino"
    assert "export" in chosen.reason


def test_without_torch_an_export_still_runs(tmp_path: Path, installed: Install) -> None:
    installed("openvino")
    both = model(tmp_path, "model.safetensors", "openvino_model.xml")
    chosen = choose(ModelSettings("m", "x"), both)
    assert chosen.engine == "openvino"
    assert chosen.reason.startswith("torch is not installed")


@pytest.mark.parametrize(
    ("wish", "here", "missing"),
    [
        ("auto", (), "torch is not installed"),
        ("auto", ("torch",), "transformers is not installed"),
        ("torch", ("openvino",), "torch is not installed"),
        ("openvino", ("torch", "transformers"), "openvino is not installed"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, installed: Install, wish: str, here: tuple[str, ...], missing: str
) -> None:
    installed(*here)
    chosen = choose(ModelSettings("m", "x", engine=wish), model(tmp_path, "model.safetensors"))
    assert chosen.engine == "none"
    assert chosen.reason.startswith(missing)


async def test_a_model_without_an_engine_says_so(toy_dir: Path, installed: Install) -> None:
    installed()
    actor = ModelActor(ModelSettings("toy", str(toy_dir)))
    client = InferenceClient([actor])
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        with trio.fail_after(10):
            await client.settled()
        assert actor.board.state == "failed"
        assert actor.board.choice == Choice("none", "torch is not installed")
        with pytest.raises(EngineMissing, match="engine: none, because torch is not installed"):
            client.explain("toy")
        nursery.cancel_scope.cancel()
