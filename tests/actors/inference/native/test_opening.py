"""Models computed by our operators and by their compiled programs, against themselves."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from r3mes.actors.inference import self_test
from r3mes.actors.inference.batching_engine import BatchingEngine
from r3mes.actors.inference.engine import Engine, Job
from r3mes.actors.inference.native import builder
from r3mes.actors.inference.native.builder import build_for
from r3mes.actors.inference.native.opening import Wish
from r3mes.actors.inference.native.place import is_there, place_of, why_not
from r3mes.actors.inference.sampling import Logits, Sampling
from r3mes.actors.inference.self_test import open_engine
from r3mes.errors import EngineError
from tests.actors.inference.test_batching_engine import FAMILIES, model_of
from tests.actors.inference.test_low_rank import put

pytestmark = pytest.mark.apart

torch.set_num_threads(1)
PROMPT = tuple(5 + i * 7 % 390 for i in range(300))
SAMPLED = Sampling(temperature=0.8, top_k=50, top_p=0.95, seed=11)


def described(family: str, folder: Path) -> Path:
    """A directory with what a program is made from."""
    model_of(family).module.config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_computed_by_our_operators(
    family: str, programs: Path, tmp_path: Path
) -> None:
    engine = open_engine(model_of(family), Wish(programs, described(family, tmp_path)), slots=4)
    assert "native plan 1, operators, exact" in engine.numerics.numeric_class
    assert engine.numerics.native.startswith(
        "operators made for this machine; what is faster is built"
    )
    assert engine.numerics.unbuilt


def test_a_program_writes_the_same_alone_among_others_and_going_on(
    programs: Path, tmp_path: Path, adapter_dir: Callable[..., Path]
) -> None:
    model = described("Llama", tmp_path / "model")
    mine = Path(shutil.copytree(programs, tmp_path / "programs"))
    assert build_for(model, mine, scaled=False) == ""
    engine = open_engine(model_of("Llama"), Wish(mine, model), slots=4)
    assert engine.numerics.native == "a program compiled for this machine"
    assert not engine.numerics.unbuilt
    alone, tokens = written(engine, PROMPT, ())
    among, _ = written(engine, PROMPT, (), strangers=3)
    on, _ = written(engine, PROMPT, tuple(tokens[:13]))
    assert among == alone
    assert on == alone[13:]
    # Rows with an adapter go past the program, and nobody's bits depend on them.
    assert isinstance(engine, BatchingEngine)
    assert put(engine.adapters, 1, adapter_dir(seed=1))
    beside, _ = written(engine, PROMPT, (), strangers=3, adapter=1)
    assert beside == alone
    own, _ = written(engine, PROMPT, (), own=1)
    own_among, _ = written(engine, PROMPT, (), own=1, strangers=3)
    assert own_among == own != alone
    # What was built is what the next start finds, unless it is damaged.
    place = place_of(mine, model)
    place.program.write_bytes(place.program.read_bytes()[:-1])
    assert not is_there(place.program)
    again = open_engine(model_of("Llama"), Wish(mine, model), slots=4)
    assert (again.numerics.unbuilt, "operators" in again.numerics.native) == (True, True)


def written(
    engine: Engine,
    prompt: tuple[int, ...],
    emitted: tuple[int, ...],
    *,
    strangers: int = 0,
    adapter: int = 0,
    own: int = 0,
) -> tuple[list[bytes], list[int]]:
    """Logits and tokens of job 0, which has the adapter ``own``; of the strangers it is another."""
    assert isinstance(engine, BatchingEngine)
    seen: list[bytes] = []

    def note(job: int, position: int, logits: Logits) -> None:
        if job == 0:
            seen.append(logits.tobytes())

    engine.on_logits, tokens = note, [*emitted]
    for number in range(1, strangers + 1):
        engine.start(
            Job(number, prompt[: number * 30], (), SAMPLED, 30, frozenset(), adapter=adapter)
        )
    engine.start(Job(0, prompt, emitted, SAMPLED, 25 - len(emitted), frozenset(), adapter=own))
    while engine.capacity.running:
        for event in engine.step():
            tokens += event.ids if event.id == 0 else ()
    return seen, tokens


def test_weights_in_bytes_stay_close(programs: Path, tmp_path: Path) -> None:
    model = described("Llama", tmp_path)
    engine = open_engine(model_of("Llama"), Wish(programs, model, scaled=True), slots=4)
    assert "operators in bytes, exact" in engine.numerics.numeric_class
    plain = open_engine(model_of("Llama"), Wish(programs, model), slots=4)
    (one, *_), (other, *_) = (written(each, PROMPT, ())[0] for each in (engine, plain))
    first, second = (np.frombuffer(each, np.float32) for each in (one, other))
    assert 0 < np.linalg.norm(first - second) < 0.2 * np.linalg.norm(second)


def test_what_our_operators_do_not_compute_right_is_left_to_torch(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r3mes.actors.inference.native import operators

    whole = operators.NativeLinear.forward
    wrong = lambda self, rows: whole(self, rows) * 1.5  # noqa: E731
    monkeypatch.setattr(operators.NativeLinear, "forward", wrong)
    model = model_of("Llama")
    engine = open_engine(model, Wish(programs, described("Llama", tmp_path)), slots=4)
    assert "together, plan 3, exact" in engine.numerics.numeric_class
    assert "our operators compute something else" in engine.numerics.native
    assert not any(isinstance(m, operators.NativeLinear) for m in model.module.modules())


def test_a_model_in_float32_has_nothing_native(programs: Path, tmp_path: Path) -> None:
    wish = Wish(programs, described("Llama", tmp_path))
    engine = open_engine(model_of("Llama", torch.float32), wish, slots=4)
    assert engine.numerics.native.endswith("only bfloat16 on a CPU has any")
    assert not engine.numerics.unbuilt


def test_a_program_that_fails_leaves_the_model_to_the_next_way(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Logits:
        raise RuntimeError("it does not fit")

    monkeypatch.setattr("r3mes.actors.inference.native.forward.NativeForward.__call__", failing)
    wish = Wish(programs, described("Llama", tmp_path))
    engine = open_engine(model_of("Llama"), wish, slots=4)
    assert "together, plan 3, exact" in engine.numerics.numeric_class


def test_a_model_that_bytes_do_not_suit_is_refused(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "CLOSE_IN_BYTES", 1e-9)
    wish = Wish(programs, described("Llama", tmp_path), scaled=True)
    with pytest.raises(EngineError, match="weights in bytes"):
        open_engine(model_of("Llama"), wish, slots=4)


def test_a_full_disk_is_not_remembered_as_what_the_model_is(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Path(shutil.copytree(programs, tmp_path / "programs"))
    model = described("Llama", tmp_path / "model")

    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(builder, "_compile", failing)
    error: Exception = OSError(errno.ENOSPC, "No space left on device")
    assert "No space left" in build_for(model, mine, scaled=False)
    assert why_not(place_of(mine, model)) == ""
    error = ValueError("it branches on its data")
    assert "branches" in build_for(model, mine, scaled=False)
    assert "branches" in why_not(place_of(mine, model))
