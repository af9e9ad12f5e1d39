"""The contract with OpenAI's own client, sync and async, over a real socket."""

from __future__ import annotations

import base64
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest
import trio

from r3mes.errors import Overloaded, PeerDisconnected

if TYPE_CHECKING:
    from tests.node.conftest import Api

pytestmark = [
    pytest.mark.net,
    # The async SDK leaves the generators behind a finished stream to the garbage collector.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]
MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(autouse=True)
def _collect_here() -> Iterator[None]:
    yield
    gc.collect()


def sdk(api: Api, key: str = "r3k_both") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=key, timeout=10)


def ask(api: Api, **extra: Any) -> Any:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="r3k_both", timeout=10) as client:
        return client.chat.completions.create(model="org/tiny", messages=MESSAGES, **extra)


async def test_whole_answer_sync(api: Api) -> None:
    answer = await trio.to_thread.run_sync(ask, api)
    assert answer.choices[0].message.content == "Hello, world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 5
    assert answer.r3mes == {
        "cost_uremes": 7,
        "receipt_id": "cd" * 32,
        "peer_id": "12D3KooWtest",
        "queue_ms": 1.5,
        "route": "peer",
    }


async def test_stream_sync(api: Api) -> None:
    def stream() -> Any:
        with openai.OpenAI(base_url=f"{api.url}/v1", api_key="r3k_both") as client:
            return list(
                client.chat.completions.create(model="org/tiny", messages=MESSAGES, stream=True)
            )

    chunks = await trio.to_thread.run_sync(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, world"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].r3mes["receipt_id"] == "cd" * 32


async def test_stream_async_with_usage(api: Api) -> None:
    async with sdk(api) as client:
        stream = await client.chat.completions.create(
            model="org/tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks: list[Any] = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == 3
    assert chunks[-1].r3mes["cost_uremes"] == 7
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.created for chunk in chunks}) == 1


async def test_models(api: Api) -> None:
    async with sdk(api) as client:
        listed = [model.id async for model in client.models.list()]
        assert listed == ["org/tiny", "other", "org/vectors"]
        one: Any = await client.models.retrieve("org/tiny")
        assert one.owned_by == "local"
        assert one.r3mes["context"] == 512
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("none/such")


async def test_wrong_key(api: Api) -> None:
    async with sdk(api, "r3k_wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert str(caught.value.request_id).startswith("req_")


async def test_unknown_model(api: Api) -> None:
    async with sdk(api) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="none", messages=MESSAGES, stream=True)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_too_long_a_prompt(api: Api) -> None:
    long: Any = [{"role": "user", "content": "x" * 6000}]
    async with sdk(api) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="org/tiny", messages=long)
    assert caught.value.code == "context_length_exceeded"
    assert "1300" in caught.value.message
    assert "512" in caught.value.message


async def test_overload_is_retried_then_told(api: Api) -> None:
    api.gateway.refuse = Overloaded("4 run, 16 wait", retry_after_s=0.01)
    async with sdk(api) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="org/tiny", messages=MESSAGES)
    assert caught.value.code == "overloaded"
    assert caught.value.response.headers["retry-after-ms"] == "10"
    assert len(api.gateway.requests) == 3


async def test_error_in_the_middle_of_a_stream(api: Api) -> None:
    api.gateway.words = ("Hel", PeerDisconnected("peer 12D3 left after 1 token"))
    async with sdk(api) as client:
        stream = await client.chat.completions.create(
            model="org/tiny", messages=MESSAGES, stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "peer_disconnected"
    assert "12D3" in caught.value.message


@pytest.mark.parametrize("stream", [True, False])
async def test_going_away_cancels_the_answer(api: Api, stream: bool) -> None:
    api.gateway.hold = trio.Event()
    async with sdk(api) as client:
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:

                async def listen() -> None:
                    answer: Any = await client.chat.completions.create(
                        model="org/tiny", messages=MESSAGES, stream=stream
                    )
                    async for _ in answer:
                        pass

                nursery.start_soon(listen)
                await api.gateway.asked.wait()
                nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await api.gateway.cancelled.wait()


@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_embeddings_in_each_encoding(api: Api, encoding: Any) -> None:
    """None is the SDK's own default: it asks for base64 and decodes it itself."""
    chosen = {} if encoding is None else {"encoding_format": encoding}
    async with sdk(api) as client:
        found = await client.embeddings.create(model="org/vectors", input=["Hi", "there"], **chosen)
    assert [one.index for one in found.data] == [0, 1]
    assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == (
        "org/vectors",
        7,
        7,
    )
    vectors: list[Any] = [one.embedding for one in found.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(one), "<f4").tolist() for one in vectors]
    assert vectors[0] == pytest.approx([2, 0.1, -1e-9], rel=1e-6)


@pytest.mark.parametrize("given", ["Hello", [1, 2, 3, 4, 5], [[1, 2, 3, 4, 5]], ["Hello"]])
async def test_embeddings_of_each_form_of_input(api: Api, given: Any) -> None:
    async with sdk(api) as client:
        found = await client.embeddings.create(model="org/vectors", input=given, dimensions=2)
    assert found.data[0].embedding == pytest.approx([5, 0.1])
    assert api.embeddings.requests[0].dimensions == 2


async def test_embeddings_of_a_model_that_is_not_there(api: Api) -> None:
    async with sdk(api) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.embeddings.create(model="none", input="Hi")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
