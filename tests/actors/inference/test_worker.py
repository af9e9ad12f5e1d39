"""The real worker with torch, and the daemon around it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors.asking import asking_for
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.files import hash_model
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.source import find_model
from r3mes.actors.requests.logprobs import decode_record
from r3mes.errors import BadRequest, ModelInvalid, ModelMissing, R3mesError
from tests.actors.inference.conftest import EMPTY

pytestmark = pytest.mark.slow

Serve = Callable[[Path], AbstractAsyncContextManager[InferenceClient]]
HELLO = [{"role": "user", "content": "what is a node asked"}]


async def test_a_real_model_answers_through_its_worker(
    serve: Serve, model_dir: Callable[..., Path]
) -> None:
    path = model_dir("qwen3", "bfloat16")
    answers = []
    async with serve(path) as client:
        (manifest,) = client.manifests()
        for seed in (1, 1, 2):
            job = GenerateJob("tiny", HELLO, max_tokens=30, temperature=0.9, seed=seed)
            async with client.generate(job, deadline_s=20) as generation:
                text = "".join([chunk.text async for chunk in generation])
            answers.append((generation.output_ids, text))
        continued = GenerateJob(
            "tiny", HELLO, emitted=answers[0][0][:11], max_tokens=19, temperature=0.9, seed=1
        )
        async with client.generate(continued, deadline_s=20) as generation:
            async for _ in generation:
                pass
    assert manifest.hash == hash_model(path)
    assert (manifest.architecture, manifest.dtype) == ("Qwen3ForCausalLM", "bfloat16")
    assert answers[0] == answers[1] != answers[2]
    assert answers[0][0][11:] == generation.output_ids


async def test_a_form_is_followed_in_the_worker_beside_free_answers(
    serve: Serve, model_dir: Callable[..., Path]
) -> None:
    """Also from the middle, and a grammar that this model cannot follow ends its answer alone."""
    form: dict[str, Any] = {"grammar_kind": "regex", "grammar": "[a-f]{9}-[0-9]{5}", "logprobs": 3}
    texts: dict[str, str] = {}
    async with serve(model_dir("qwen3", "bfloat16")) as client:

        async def ask(name: str, job: GenerateJob) -> None:
            async with client.generate(job, deadline_s=20) as generation:
                chunks = [chunk async for chunk in generation]
            texts[name] = "".join(chunk.text for chunk in chunks) + " " + generation.finish_reason
            told = [record for chunk in chunks for record in chunk.logprobs]
            assert len(told) == (len(generation.output_ids) if job.logprobs else 0)
            assert all(len(decode_record(record, job.logprobs)) == 3 for record in told)

        async with trio.open_nursery() as nursery:
            asked = GenerateJob("tiny", HELLO, max_tokens=40, temperature=1.2, seed=7)
            nursery.start_soon(ask, "free", asked)
            nursery.start_soon(ask, "formed", replace(asked, **form))
        lost = replace(asked, grammar_kind="grammar", grammar="start: <|nope|>")
        with pytest.raises(BadRequest, match="cannot be followed"):
            await ask("lost", lost)
        await ask("free again", asked)
    assert re.fullmatch("[a-f]{9}-[0-9]{5} stop", texts["formed"])
    assert texts["free"] == texts["free again"]


async def test_a_model_that_the_worker_refuses_is_a_visible_state(
    serve: Serve, model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    for file in model_dir().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(EMPTY)
    async with serve(tmp_path) as client:
        board = client.boards()["tiny"]
        assert board.state == "failed"
        assert isinstance(board.error, ModelInvalid)
        assert client.manifests() == ()
        with pytest.raises(ModelInvalid, match=r"lacks \d+ weights"):
            async with client.generate(GenerateJob("tiny", HELLO), deadline_s=1):
                pass


@pytest.mark.parametrize(
    ("files", "kind", "why"),
    [
        (None, ModelMissing, "no directory"),
        ({}, ModelMissing, "no config.json"),
        ({"config.json": "{}"}, ModelInvalid, "model_type"),
        ({"config.json": '{"model_type": "llama"}', "model.bin": ""}, ModelInvalid, "pickled"),
        ({"config.json": "[" * 100_000}, ModelInvalid, "cannot be read"),
    ],
)
async def test_files_that_need_no_worker_to_be_refused(
    serve: Serve, tmp_path: Path, files: dict[str, str] | None, kind: type[R3mesError], why: str
) -> None:
    path = tmp_path / "model"
    if files is not None:
        path.mkdir()
    for name, content in (files or {}).items():
        (path / name).write_text(content)
    async with serve(path) as client:
        board = client.boards()["tiny"]
        assert board.pid is None
        assert isinstance(board.error, kind)
        assert why in board.error.detail
        with pytest.raises(kind, match=why):
            async with client.generate(GenerateJob("tiny", HELLO), deadline_s=1):
                pass


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_model_that_nobody_pulled_is_not_looked_for_in_the_network(tmp_path: Path) -> None:
    code = """
        from r3mes.actors.inference.source import find_model
        from r3mes.errors import ModelMissing
        try:
            find_model("someone/some-model", "main")
        except ModelMissing as error:
            print(error)
    """
    # Port 1 of loopback is closed.
    with python(code, HF_ENDPOINT="http://127.0.0.1:1", HF_HOME=str(tmp_path)) as process:
        out, _ = process.communicate(timeout=60)
    assert "someone/some-model at main is not on this machine" in out
    assert "r3mes models pull someone/some-model" in out


def test_a_path_is_never_taken_for_a_hub_id() -> None:
    for source in ("/none/such", "./none", "~/none/such", "none", "a/b/c"):
        with pytest.raises(ModelMissing, match="no directory"):
            find_model(source, "main")


def test_the_daemon_imports_neither_torch_nor_transformers() -> None:
    code = """
        import sys
        import r3mes.actors.inference.client
        print(sorted({"torch", "transformers", "huggingface_hub", "numpy"} & set(sys.modules)))
    """
    with python(code) as process:
        out, _ = process.communicate(timeout=60)
    assert out == "[]\n"


@pytest.mark.parametrize("frozen", [False, True])
async def test_the_worker_dies_with_the_daemon(toy_dir: Path, frozen: bool) -> None:
    toy = Path(__file__).with_name("toy_worker.py")
    code = f"""
        import sys, trio
        from r3mes.actors.inference.actor import ModelActor
        from r3mes.actors.inference.client import InferenceClient
        from r3mes.actors.inference.settings import ModelSettings

        async def main():
            command = (sys.executable, "-P", {str(toy)!r})
            actor = ModelActor(ModelSettings("toy", {str(toy_dir)!r}), command)
            async with trio.open_nursery() as nursery:
                await nursery.start(actor.run)
                await InferenceClient([actor]).settled()
                print(actor.board.pid, flush=True)
                await trio.sleep_forever()

        trio.run(main)
    """
    with python(code) as daemon:
        assert daemon.stdout is not None
        worker = int(daemon.stdout.readline())
        if frozen:
            os.kill(worker, signal.SIGSTOP)
        daemon.kill()
        with trio.fail_after(10):
            while _lives(worker):  # noqa: ASYNC110  not our child: nobody tells us
                await trio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_what_an_owner_asked_before_is_not_read_again(
    serve: Serve, model_dir: Callable[..., Path]
) -> None:
    """Through the whole seam: the owner goes down with the request, the count comes back."""
    asked = [{"role": "user", "content": "what is a node asked " * 30}]
    prompt = 0
    async with serve(model_dir("qwen3", "bfloat16")) as client:
        board = client.boards()["tiny"]
        while (trial := board.used) is None:  # noqa: ASYNC110  no event for this
            await trio.sleep(0.05)
        for owner in ("a", "b", "a"):
            job = GenerateJob("tiny", asked, max_tokens=1)
            with asking_for(owner):
                async with client.generate(job, deadline_s=20) as answer:
                    prompt = len(answer.prompt_ids)
                    [chunk async for chunk in answer]
        whole = trial.prompt_tokens + 3 * prompt
        while (used := board.used) is None or used.prompt_tokens < whole:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert used.cached_tokens - trial.cached_tokens == (prompt - 1) // 128 * 128 > 0
    assert used.kv_bytes > trial.kv_bytes
