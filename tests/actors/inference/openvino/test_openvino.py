"""The engine on OpenVINO: it exports a model itself, once, and writes what torch writes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.engine import Job, Numerics
from r3mes.actors.inference.files import hash_model
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.openvino.place import export_place
from r3mes.actors.inference.sampling import Sampling
from r3mes.actors.inference.settings import ModelSettings
from r3mes.errors import ModelInvalid

pytestmark = pytest.mark.apart

pytest.importorskip("openvino")

PROMPTS = [[1, 5, 9, 300, 17], [1, *range(40, 240)], [1, 7]]
NEW = 12
NUMERICS = Numerics("Llama", 0, "float32", "cpu", 640, 400, "test", ())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exported(model_dir: Callable[..., Path], cache: Path) -> Path:
    """A cache that the confined worker has filled."""

    async def load() -> str:
        return await answer(model_dir(), cache)

    assert trio.run(load)
    return export_place(cache, model_dir())


async def answer(model: Path, cache: Path | None = None) -> str:
    """What the worker says, greedily, after it has checked what it is."""
    actor = ModelActor(ModelSettings("m", str(model), engine="openvino", slots=2, cache=cache))
    client = InferenceClient([actor])
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        with trio.fail_after(120):
            await client.settled()
        client.explain("m")
        (manifest,) = client.manifests()
        assert manifest.hash == hash_model(model)
        assert manifest.numeric_class.endswith("inexact")
        job = GenerateJob("m", [{"role": "user", "content": "fox"}], temperature=0, max_tokens=8)
        async with client.generate(job, deadline_s=10) as generation:
            text = "".join([chunk.text async for chunk in generation])
        assert len(generation.output_ids) == 8 or generation.finish_reason == "stop"
        nursery.cancel_scope.cancel()
    return text


@pytest.fixture
def engine(exported: Path) -> Any:
    from r3mes.actors.inference.openvino.engine import OpenVinoEngine
    from r3mes.actors.inference.openvino.program import Program

    file = exported / "openvino_model.xml"
    program = Program(file, slots=4, context=640, precision="f32", threads=1)
    return OpenVinoEngine(program, NUMERICS, slots=4)


def job(
    number: int,
    prompt: Sequence[int],
    emitted: Sequence[int] = (),
    sampling: Sampling = Sampling(),  # noqa: B008  frozen
) -> Job:
    new = NEW - len(emitted)
    return Job(number, tuple(prompt), tuple(emitted), sampling, new, frozenset())


def write(engine: Any, *jobs: Job) -> dict[int, list[int]]:
    for one in jobs:
        engine.start(one)
    written: dict[int, list[int]] = {one.id: [] for one in jobs}
    while engine.capacity.running:
        for event in engine.step():
            written.setdefault(event.id, []).extend(event.ids)
    return written


def test_it_writes_what_transformers_writes(engine: Any, model_dir: Callable[..., Path]) -> None:
    import torch

    transformers: Any = importlib.import_module("transformers")
    plain = transformers.AutoModelForCausalLM.from_pretrained(model_dir())
    expected = {}
    for number, prompt in enumerate(PROMPTS):
        out = plain.generate(
            torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
        expected[number] = out[0, len(prompt) :].tolist()
    assert write(engine, *(job(n, prompt) for n, prompt in enumerate(PROMPTS))) == expected


def test_an_answer_goes_on_where_another_left_off(engine: Any) -> None:
    how = Sampling(temperature=1.0, seed=5)
    whole = write(engine, job(0, PROMPTS[1], sampling=how))[0]
    begun = job(1, PROMPTS[1], whole[:5], how)
    assert write(engine, begun, job(2, PROMPTS[0]))[1] == whole[5:]


def test_a_cancelled_answer_leaves_its_slot(engine: Any) -> None:
    engine.start(job(0, PROMPTS[0]))
    engine.start(job(1, PROMPTS[1]))
    engine.step()
    (event,) = engine.cancel(1)
    assert event.ended == "cancelled"
    assert engine.capacity.free_slots == 3
    alone = write(engine, job(2, PROMPTS[2]))[2]
    assert write(engine, job(3, PROMPTS[2]))[3] == alone


async def test_what_was_exported_is_found_again(
    exported: Path, model_dir: Callable[..., Path], cache: Path
) -> None:
    made = (exported / "openvino_model.xml").stat().st_mtime_ns
    await answer(model_dir(), cache)
    assert (exported / "openvino_model.xml").stat().st_mtime_ns == made


def test_an_export_alone_is_a_model(
    exported: Path, model_dir: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    for file in (*exported.iterdir(), *model_dir().iterdir()):
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert trio.run(answer, tmp_path) == trio.run(answer, model_dir(), cache)


def test_attention_beyond_the_plain_is_refused() -> None:
    from r3mes.actors.inference.openvino.export import attend

    with pytest.raises(ModelInvalid, match="windows"):
        attend(None, None, None, None, None, sliding_window=64)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    from r3mes.actors.inference.openvino.program import Program

    (tmp_path / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(ModelInvalid, match="cannot be run by OpenVINO"):
        Program(tmp_path / "openvino_model.xml", slots=1, context=64, precision="f32")
