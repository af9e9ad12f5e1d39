"""What keeps a model from being found: told of the model, and never the end of its actor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.settings import AdapterSettings, ModelSettings
from r3mes.errors import EngineError, NotReady, R3mesError, StoreFull
from tests.actors.inference.conftest import serving

Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]


@pytest.mark.parametrize(
    "error",
    [
        StoreFull("no space is left", do="free some"),
        NotReady("the pull was cancelled", do="free some"),
        OSError("no space is left"),
    ],
)
async def test_a_pull_that_fails_is_a_model_that_failed(error: Exception) -> None:
    async def fetch(_source: str, _revision: str) -> Path:
        raise error

    actor = ModelActor(ModelSettings("m", "someone/nowhere"), fetch=fetch)
    async with serving(actor) as client:
        board = client.boards()["m"]
        assert board.state == "failed"
        assert type(board.error) is EngineError
        assert str(error).split(": ")[-1].split(".")[0] in board.error.detail
        if isinstance(error, R3mesError):
            assert board.error.do == "free some"
        while "times in a row" not in board.error.detail:  # it is tried again
            await board.changed.wait()
            assert board.error is not None


@pytest.mark.slow
async def test_an_adapter_that_cannot_be_read_fails_alone(
    toy: Toy, tmp_path: Path, save_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr(trio, "open_file", broken)
    directory = save_at(tmp_path / "red", {"q_proj": (8, 8)}, revision="red")
    async with toy(adapters=(AdapterSettings(name="red", source=str(directory)),)) as client:
        with pytest.raises(EngineError, match="toy:red cannot be read: input/output error"):
            client.adapter("toy:red").check()
        assert client.boards()["toy"].state == "ready"


def test_each_who_is_told_has_an_error_of_his_own() -> None:
    kept = StoreFull("no space is left", do="free some", retry_after_s=5, param="id")
    told = kept.again()
    assert told is not kept
    assert type(told) is StoreFull
    assert vars(told) == vars(kept)
