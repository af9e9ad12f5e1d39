"""Models behind other servers: vLLM, SGLang, llama.cpp, Ollama and whatever speaks OpenAI's API.

The answers have the shapes that these servers document and send; the server itself is real HTTP.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tokenizers import Tokenizer

from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob, Ticket
from r3mes.actors.inference.protocol import Start
from r3mes.actors.inference.settings import ModelSettings, UpstreamSettings
from r3mes.actors.inference.upstream import keeper as upstream_keeper
from r3mes.actors.inference.upstream.answering import question_of
from r3mes.actors.inference.upstream.dialects import Ollama, OpenAi, Vllm
from r3mes.actors.inference.upstream.meeting import upstream_hash
from r3mes.actors.inference.upstream.retokenise import Retokeniser
from r3mes.errors import BadRequest, EngineError, ModelMissing, Overloaded, UpstreamFailed
from tests.actors.inference.upstream.http_server import Reply, SmallServer, event, listing

MESSAGES = [{"role": "user", "content": "hi"}]
Script = Callable[[Mapping[str, Any], Sequence[int]], Sequence[bytes]]


def vllm(body: Mapping[str, Any], ids: Sequence[int]) -> Sequence[bytes]:
    assert body["return_token_ids"] is True
    lines = [_choice(text="x", token_ids=[one], finish_reason=None) for one in ids[:-1]]
    last = _choice(text="x", token_ids=[ids[-1]], finish_reason="length")
    return [*lines, last, event(choices=[], usage={"completion_tokens": 3}), b"data: [DONE]\n\n"]


def sglang(body: Mapping[str, Any], ids: Sequence[int]) -> Sequence[bytes]:
    """All ids so far in each line, as without ``--stream-output``."""
    assert body["stream"] is True
    return [
        event(
            text="x",
            output_ids=list(ids[:n]),
            meta_info={"completion_tokens": n, "finish_reason": _finish(n, ids)},
        )
        for n in range(1, len(ids) + 1)
    ]


def sglang_new_ids(body: Mapping[str, Any], ids: Sequence[int]) -> Sequence[bytes]:
    """Only the new ones, as with it."""
    assert body["stream"] is True
    return [
        event(
            text="x",
            output_ids=[ids[n - 1]],
            meta_info={"completion_tokens": n, "finish_reason": _finish(n, ids)},
        )
        for n in range(1, len(ids) + 1)
    ]


def llamacpp(body: Mapping[str, Any], ids: Sequence[int]) -> Sequence[bytes]:
    assert body["return_tokens"] is True
    lines = [event(index=0, content="x", tokens=[one], stop=False) for one in ids]
    return [*lines, event(index=0, content="", tokens=[], stop=True, stop_type="limit")]


def _choice(**fields: object) -> bytes:
    return event(object="text_completion", choices=[{"index": 0, **fields}])


def _finish(n: int, ids: Sequence[int]) -> object:
    return {"type": "length", "length": n} if n == len(ids) else None


@pytest.fixture(scope="module")
def tokenizer_dir(toy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the operator names: the files of a tokenizer, and no weights."""
    path = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "chat_template.jinja"):
        (path / name).write_bytes((toy_dir / name).read_bytes())
    special = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>", "special": True}}
    (path / "tokenizer_config.json").write_text(json.dumps(special))
    (path / "generation_config.json").write_text('{"eos_token_id": [2]}')
    return path


BY_IDS = [
    ("vllm", "/v1/completions", "prompt", vllm),
    ("sglang", "/generate", "input_ids", sglang),
    ("sglang", "/generate", "input_ids", sglang_new_ids),
    ("llamacpp", "/completion", "prompt", llamacpp),
]


@asynccontextmanager
async def fronting(
    url: str, tokenizer: Path, **more: Any
) -> AsyncIterator[tuple[InferenceClient, ModelActor]]:
    key_file = more.pop("key_file", None)
    upstream = UpstreamSettings(url, "org/big", tokenizer, key_file)
    actor = ModelActor(
        ModelSettings("big", "org/big", upstream=upstream, **({"max_context": 256} | more))
    )
    client = InferenceClient([actor])
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        with trio.fail_after(10):
            await client.settled()
        yield client, actor
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running(handle: Any) -> AsyncIterator[SmallServer]:
    server = SmallServer(handle)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def write(client: InferenceClient, **how: Any) -> tuple[str, tuple[int, ...], str]:
    job = GenerateJob("big", MESSAGES, **({"temperature": 0} | how))
    with trio.fail_after(10):
        async with client.generate(job, deadline_s=5) as generation:
            text = "".join([chunk.text async for chunk in generation])
    return text, generation.output_ids, generation.finish_reason


@pytest.mark.parametrize(("owner", "where", "field", "script"), BY_IDS)
async def test_servers_of_token_ids(
    tokenizer_dir: Path, owner: str, where: str, field: str, script: Script
) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    ids = tokenizer.encode("fox").ids
    asked: list[Mapping[str, Any]] = []

    def handle(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        if path == "/v1/models":
            return listing("org/big", owner, max_model_len=200)
        if path == "/props":
            return Reply(body=b'{"default_generation_settings": {"n_ctx": 200}}')
        assert path == where
        asked.append(body)
        return Reply(lines=script(body, ids))

    async with running(handle) as server, fronting(server.url, tokenizer_dir) as (client, _):
        assert await write(client, max_tokens=3) == ("fox", tuple(ids), "length")
        (manifest,) = client.manifests()
        await write(client, max_tokens=2, emitted=tuple(ids[:1]), top_k=5)
    assert manifest.context == 200
    assert manifest.numeric_class == f"inexact, upstream {owner}"
    assert manifest.hash == upstream_hash("org/big", tokenizer_dir)
    assert tokenizer.decode(asked[0][field], skip_special_tokens=False).endswith("<|assistant|>")
    assert asked[1][field] == [*asked[0][field], ids[0]]
    assert asked[1].get("sampling_params", asked[1])["top_k"] == 5


def openai(words: Sequence[str]) -> Sequence[bytes]:
    lines = [_delta({"role": "assistant", "content": ""}, None)]
    lines += [_delta({"content": word}, None) for word in words]
    return [*lines, _delta({}, "stop"), b"data: [DONE]\n\n"]


def _delta(delta: object, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event(object="chat.completion.chunk", choices=[choice])


def ollama(words: Sequence[str]) -> Sequence[bytes]:
    lines = [{"message": {"role": "assistant", "content": one}, "done": False} for one in words]
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    return [json.dumps(one).encode() + b"\n" for one in (*lines, last)]


@pytest.mark.parametrize(
    ("owner", "where", "script"),
    [("library", "/api/chat", ollama), ("somebody", "/v1/chat/completions", openai)],
)
async def test_servers_of_text(
    tokenizer_dir: Path, owner: str, where: str, script: Callable[[Sequence[str]], Sequence[bytes]]
) -> None:
    asked: list[Mapping[str, Any]] = []

    def handle(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        if path == "/v1/models":
            return listing("org/big", owner)
        assert path == where
        asked.append(body)
        return Reply(lines=script(["A ré", "d fox", " jumps"]))

    async with running(handle) as server, fronting(server.url, tokenizer_dir) as (client, actor):
        text, ids, reason = await write(client)
        assert (text, reason) == ("A réd fox jumps", "stop")
        assert ids == tuple(
            Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json")).encode(text).ids
        )
        assert asked[0]["messages"] == MESSAGES
        assert (await write(client, stop=("fox",)))[::2] == ("A réd ", "stop")
        assert (await write(client, max_tokens=4))[2] == "length"
        with pytest.raises(EngineError, match="another's answer"):
            await write(client, emitted=(70,))
        if owner == "library":
            assert asked[0]["options"]["num_ctx"] == 256
        else:
            with pytest.raises(BadRequest, match="top_k"):
                await write(client, top_k=3)
        with pytest.raises(BadRequest, match="logprobs"):
            await write(client, logprobs=1)
        with pytest.raises(BadRequest, match="grammar"):
            await write(client, grammar_kind="json_object")
        assert actor.board.state == "ready"


def test_no_option_is_passed_over() -> None:
    """Whoever adds one to `Start` decides here what a server is told, or that it is refused."""
    sent = {"prompt", "emitted", "temperature", "top_k", "top_p", "seed", "max_new", "min_p"}
    sent |= {"presence_penalty", "frequency_penalty", "repetition_penalty", "bias", "biases"}
    refused = {"logprobs", "grammar", "adapter"}
    ours = {"id", "stop_ids", "owner"}
    assert set(Start.__struct_fields__) <= sent | refused | ours


async def test_tools_are_for_servers_that_take_the_prompt_itself() -> None:
    start = Start(1, bytes(4), b"", 0.0, 0, 1.0, 0, 5, b"", 0)
    ticket = Ticket(start, deadline=0, tools=True)
    assert question_of(ticket, "big", Vllm(), 100).ids == (0,)
    for dialect in (Ollama(), OpenAi()):
        with pytest.raises(BadRequest, match="is shown no tools"):
            question_of(ticket, "big", dialect, 100)


async def test_hanging_up_ends_the_work_there(tokenizer_dir: Path) -> None:
    def handle(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        if path == "/v1/models":
            return listing("org/big", "vllm")
        return Reply(lines=[_choice(text="f", token_ids=[70], finish_reason=None)], hangs=True)

    async with running(handle) as server, fronting(server.url, tokenizer_dir) as (client, actor):
        async with client.generate(GenerateJob("big", MESSAGES), deadline_s=5) as generation:
            async for _ in generation:
                break
        with trio.fail_after(5):
            await server.hung_up.wait()
            while actor.board.running:
                await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(429, b'{"error": {"message": "too many"}}'), Overloaded),
        (Reply(503, b"loading"), Overloaded),
        (Reply(400, b'{"error": {"message": "too long", "key": 1}}'), UpstreamFailed),
        (Reply(302), UpstreamFailed),
        (Reply(lines=[b"data: {not json\n\n"]), UpstreamFailed),
        (Reply(lines=[b"data: [1]\n\n"]), UpstreamFailed),
        (Reply(lines=[event(choices=[{"text": 1}])]), UpstreamFailed),
        (Reply(lines=[event(error={"message": "out of memory"})]), UpstreamFailed),
        (Reply(lines=[_choice(text="", token_ids=[1 << 40], finish_reason=None)]), UpstreamFailed),
        (Reply(lines=[_choice(text="", token_ids=[70], finish_reason=None)]), UpstreamFailed),
        (Reply(lines=[b"x" * (1 << 20), b"x" * (1 << 20)]), UpstreamFailed),
    ],
)
async def test_what_goes_wrong_with_one_answer_stays_with_it(
    tokenizer_dir: Path, reply: Reply, error: type[Exception]
) -> None:
    replies = [reply, Reply(lines=vllm({"return_token_ids": True}, [70, 71]))]

    def handle(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        return listing("org/big", "vllm") if path == "/v1/models" else replies.pop(0)

    async with running(handle) as server, fronting(server.url, tokenizer_dir) as (client, actor):
        with pytest.raises(error):
            await write(client, max_tokens=2)
        assert (await write(client, max_tokens=2))[1] == (70, 71)
        assert actor.board.restarts == 0


async def test_a_server_that_goes_and_comes_back(
    tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_keeper, "WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(upstream_keeper, "FIRST_PAUSE_S", 0.05)

    def handle(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        if path == "/v1/models":
            return listing("org/big", "vllm")
        return Reply(lines=vllm(body, [70]))

    first = SmallServer(handle)
    async with trio.open_nursery() as nursery:
        stop = trio.CancelScope()

        async def until_stopped(*, task_status: trio.TaskStatus[None]) -> None:
            with stop:
                await first.run(task_status=task_status)

        await nursery.start(until_stopped)
        async with fronting(first.url, tokenizer_dir) as (client, actor):
            assert actor.board.state == "ready"
            stop.cancel()
            await reaches(actor, "restarting")
            assert isinstance(actor.board.error, UpstreamFailed)
            await nursery.start(SmallServer(handle, first.port).run)
            await reaches(actor, "ready")
            assert (await write(client, max_tokens=1))[1] == (70,)
        nursery.cancel_scope.cancel()


async def reaches(actor: ModelActor, state: str) -> None:
    with trio.fail_after(10):
        while actor.board.state != state:
            await actor.board.changed.wait()


async def test_a_model_that_is_not_there_is_named_with_those_that_are(tokenizer_dir: Path) -> None:
    def handle(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        return listing("org/small", "vllm")

    async with running(handle) as server, fronting(server.url, tokenizer_dir) as (client, actor):
        assert actor.board.state == "failed"
        assert actor.board.choice is not None
        assert actor.board.choice.engine == "upstream"
        with pytest.raises(ModelMissing, match="'org/big'; it has org/small"):
            client.explain("big")


async def test_the_key_is_sent_and_never_shown(tokenizer_dir: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("s3cret-key\n")
    key_file.chmod(0o600)
    seen: list[str] = []

    def handle(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        seen.append(headers.get("authorization", ""))
        return Reply(401, b'{"error": {"message": "no such key: s3cret-key"}}')

    async with (
        running(handle) as server,
        fronting(server.url, tokenizer_dir, key_file=key_file) as (_, actor),
    ):
        assert seen == ["Bearer s3cret-key"]
        assert actor.board.error is not None
        assert "no such key: …" in actor.board.error.detail
        assert "s3cret" not in repr(actor.settings)


async def test_without_a_server_the_model_has_failed(tokenizer_dir: Path) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1"
    await listener.aclose()
    async with fronting(url, tokenizer_dir) as (client, actor):
        assert actor.board.state == "failed"
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            client.explain("big")


def test_text_is_cut_into_the_tokens_of_the_whole() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    text = "the quick brown fox\njumps over  the lazy dog: 日本語"
    cutter = Retokeniser(tokenizer)
    ids = [one for letter in text for one in cutter.feed(letter)]
    ids += cutter.flush()
    assert tokenizer.decode(ids) == text
    assert len(ids) <= len(tokenizer.encode(text).ids) + 2
