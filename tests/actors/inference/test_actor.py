"""The actor with a real worker process whose engine is a toy."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from r3mes.actors.asking import asking_for
from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import Chunk, GenerateJob, Generation
from r3mes.actors.inference.settings import ModelSettings
from r3mes.errors import (
    BadRequest,
    ContextLengthExceeded,
    EngineCrashed,
    ModelNotFound,
    ModelTooLarge,
    NotReady,
    Overloaded,
    R3mesError,
)

pytestmark = pytest.mark.slow

Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]
CONTEXT = 300


def job(text: str, **options: Any) -> GenerateJob:
    return GenerateJob("toy", [{"role": "user", "content": text}], **options)


async def ask(
    client: InferenceClient, text: str, deadline_s: float = 10, **options: Any
) -> tuple[list[Chunk], Generation]:
    with trio.fail_after(20):
        async with client.generate(job(text, **options), deadline_s=deadline_s) as generation:
            return [chunk async for chunk in generation], generation


async def answer(client: InferenceClient, text: str, **options: Any) -> str:
    chunks, _ = await ask(client, text, **options)
    return "".join(chunk.text for chunk in chunks)


async def test_streams_whole_characters_the_first_token_at_once(toy: Toy) -> None:
    text = "say héllo 你好 😀 and a longer rest, so that there are several chunks"
    async with toy() as client:
        chunks, generation = await ask(client, text)
        (manifest,) = client.manifests()
    assert "".join(chunk.text for chunk in chunks) == text.removeprefix("say ")
    assert not any("\N{REPLACEMENT CHARACTER}" in chunk.text for chunk in chunks)
    assert len(chunks[0].ids) == 1
    assert 3 < len(chunks) < generation.completion_tokens
    assert generation.finish_reason == "stop"
    assert generation.output_ids == tuple(token for chunk in chunks for token in chunk.ids)
    assert generation.completion_tokens == len(text.removeprefix("say ").encode())
    assert (manifest.name, manifest.context) == ("toy", CONTEXT)


async def test_a_loaded_model_is_logged(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        async with toy() as client:
            await answer(client, "say hello")
    assert [one for one in caplog.messages if one.startswith("model toy: loaded in ")]


async def test_ends_before_a_stop_string_that_comes_in_pieces(toy: Toy) -> None:
    async with toy() as client:
        chunks, generation = await ask(client, "say one, two, three", stop=("never", ", th"))
        assert "".join(chunk.text for chunk in chunks) == "one, two"
        assert generation.finish_reason == "stop"
        assert generation.completion_tokens == len("one, two, th")
        assert await answer(client, "say one, two", stop=(", twofold",)) == "one, two"


async def test_goes_on_behind_what_was_emitted(toy: Toy) -> None:
    async with toy() as client:
        _, whole = await ask(client, "say 你好 you")
        chunks, _ = await ask(client, "say 你好 you", emitted=whole.output_ids[:4])
        assert "".join(chunk.text for chunk in chunks) == "好 you"  # its first byte was held back
        with pytest.raises(BadRequest, match="emitted"):
            await ask(client, "say no", emitted=(4_000,))


async def test_length_and_context(toy: Toy) -> None:
    async with toy() as client:
        _, generation = await ask(client, "count", max_tokens=5)
        assert (generation.finish_reason, generation.completion_tokens) == ("length", 5)
        _, generation = await ask(client, "count")  # whatever the context holds
        assert generation.finish_reason == "length"
        assert len(generation.prompt_ids) + generation.completion_tokens == CONTEXT
        with pytest.raises(ContextLengthExceeded, match=r"308 tokens.* context is 300 tokens"):
            await ask(client, "say " + "x" * 300)
        with pytest.raises(ContextLengthExceeded, match=r"300 for the answer.* 300 tokens"):
            await ask(client, "say hi", max_tokens=300)
        with pytest.raises(ContextLengthExceeded, match="bytes"):
            await ask(client, "say " + "x" * 30_000)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "robot", "content": "hi"}],
        [{"role": "user", "content": "\ud800"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user"}],
        ["hi"],
    ],
)
async def test_messages_that_cannot_be_used(toy: Toy, messages: list[Any]) -> None:
    async with toy() as client:
        with pytest.raises(BadRequest):
            async with client.generate(GenerateJob("toy", messages), deadline_s=5):
                pass


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", float("nan")),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("emitted", (-1,)),
    ],
)
async def test_numbers_that_would_cost_a_worker(toy: Toy, option: str, value: Any) -> None:
    async with toy() as client:
        with pytest.raises(BadRequest) as refused:
            await ask(client, "say hi", **{option: value})
    assert refused.value.param == option


async def test_what_a_worker_dies_of_is_told(toy: Toy) -> None:
    async with toy() as client:
        with pytest.raises(EngineCrashed, match="ended with status 1: ValueError: nonsense"):
            await ask(client, "nonsense")
        assert await answer(client, "say again") == "again"


async def test_an_unknown_model(toy: Toy) -> None:
    async with toy() as client:
        with pytest.raises(ModelNotFound, match="'none'"):
            async with client.generate(GenerateJob("none", []), deadline_s=5):
                pass


async def test_leaving_early_frees_the_slot(toy: Toy) -> None:
    async with toy() as client:
        async with client.generate(job("count"), deadline_s=5) as generation:
            async for _ in generation:
                break
        chunks, _ = await ask(client, "started")
        assert chunks[0].text == "2"
        assert client.boards()["toy"].running == 0


async def test_cancelled_by_its_reader(toy: Toy) -> None:
    async with toy() as client:
        async with client.generate(job("count"), deadline_s=5) as generation:
            async for _ in generation:
                generation.cancel()
    assert generation.finish_reason == "cancelled"
    assert generation.completion_tokens < 50


async def test_a_request_that_is_given_up_while_it_waits_never_starts(toy: Toy) -> None:
    async with toy() as client:
        async with client.generate(job("count"), deadline_s=5):
            with trio.move_on_after(0.2):
                await ask(client, "say never")
            with pytest.raises(Overloaded, match="turn"):
                await ask(client, "say never", deadline_s=0.2)
        assert await answer(client, "started") == "2"


async def test_a_full_queue_refuses_at_once(toy: Toy) -> None:
    async with toy(queue=2) as client, trio.open_nursery() as nursery:
        async with client.generate(job("count"), deadline_s=5):
            for _ in range(2):
                nursery.start_soon(ask, client, "say hi")
            with trio.fail_after(5):
                while client.boards()["toy"].waiting < 2:  # noqa: ASYNC110  no event for this
                    await trio.sleep(0.01)
            with pytest.raises(Overloaded) as refused:
                await ask(client, "say hi")
            assert refused.value.retry_after_s


async def test_slots_write_at_the_same_time(toy: Toy) -> None:
    async with toy(slots=2) as client:
        async with client.generate(job("count"), deadline_s=5):
            assert await answer(client, "say meanwhile") == "meanwhile"


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGKILL, "signal 9"), (signal.SIGSTOP, "stood still")]
)
async def test_a_worker_that_dies_or_hangs_is_replaced(
    toy: Toy, number: signal.Signals, why: str
) -> None:
    """The running request is told, the waiting one is answered by the next worker."""
    answers: list[str] = []

    async def wait_in_line(client: InferenceClient) -> None:
        answers.append(await answer(client, "say I waited"))

    async with toy(frozen_timeout=1.0) as client, trio.open_nursery() as nursery:
        board = client.boards()["toy"]
        assert board.pid is not None
        with pytest.raises(EngineCrashed, match=why):
            async with client.generate(job("count"), deadline_s=5) as generation:
                nursery.start_soon(wait_in_line, client)
                async for _ in generation:
                    if board.waiting:
                        os.kill(board.pid, number)
        with trio.fail_after(20):
            while not answers:  # noqa: ASYNC110  a process of its own tells no event
                await trio.sleep(0.02)
    assert answers == ["I waited"]
    assert board.restarts == 1


async def test_a_worker_that_computes_without_end_is_replaced(toy: Toy) -> None:
    """It uses the processor, so it does not stand still; but nothing may take for ever."""
    async with toy(silence_timeout=2.0, frozen_timeout=1.0) as client:
        with pytest.raises(EngineCrashed, match="no sign of life for 2"):
            await ask(client, "spin")
        assert await answer(client, "say again") == "again"


async def test_time_in_which_the_daemon_stood_still_is_not_held_against_the_worker(
    toy: Toy, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1.0
    async with toy(silence_timeout=30.0, frozen_timeout=10.0) as client:
        assert await answer(client, "say before") == "before"
        mock_clock.jump(60)
        await trio.sleep(2)
        assert await answer(client, "say after") == "after"
        assert client.boards()["toy"].restarts == 0


async def test_a_worker_over_its_memory_is_replaced(toy: Toy) -> None:
    async with toy(memory_bytes=300 << 20) as client:
        with pytest.raises(EngineCrashed, match="MiB and may take 300"):
            for _ in range(100):
                await ask(client, "eat")
                await ask(client, "count")  # long enough that it is seen under an answer
        assert await answer(client, "say again") == "again"


async def test_the_worker_reaches_neither_network_nor_keys(
    toy: Toy, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path_factory.mktemp("datadir") / "node.key"
    key.write_text("secret")
    monkeypatch.setenv("R3MES_PASSPHRASE", "secret")
    async with toy() as client:
        for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
            assert await answer(client, f"socket {family}") == "Operation not permitted"
        assert await answer(client, "socket AF_UNIX") == "done"
        assert await answer(client, f"write {key}") == "Permission denied"
        assert await answer(client, f"read {key}") == "Permission denied"
        assert await answer(client, f"read /proc/{os.getpid()}/mem") == "Permission denied"
        assert await answer(client, f"read /proc/{os.getpid()}/environ") == "Permission denied"
        assert "R3MES" not in await answer(client, "environ")


def link_all(files: Path, to: Path) -> None:
    for file in files.iterdir():
        (to / file.name).symlink_to(file)


async def test_files_behind_links_as_the_hub_keeps_them(
    toy: Toy, toy_dir: Path, tmp_path: Path
) -> None:
    link_all(toy_dir, tmp_path)
    async with toy(source=str(tmp_path)) as client:
        assert await answer(client, "say linked") == "linked"


async def test_a_load_that_takes_too_long_is_a_visible_state(toy: Toy) -> None:
    async with toy(device="slow", load_timeout=0.3) as client:
        board = client.boards()["toy"]
        assert board.state == "failed"
        with pytest.raises(EngineCrashed, match=r"longer than 0\.3 s"):
            await ask(client, "say hi")


async def test_requests_while_a_model_loads_are_told_to_come_back(toy_dir: Path) -> None:
    actor = ModelActor(ModelSettings("toy", str(toy_dir)))
    client = InferenceClient([actor])
    assert client.manifests() == ()
    with pytest.raises(NotReady) as refused:
        await ask(client, "say hi")
    assert refused.value.retry_after_s


async def test_weights_over_the_cap_are_refused_unread(toy: Toy) -> None:
    async with toy(memory_bytes=-1) as client:  # the toy's weights have no bytes
        board = client.boards()["toy"]
        assert board.pid is None
        assert isinstance(board.error, ModelTooLarge)
        assert "may take" in board.error.detail


async def test_the_worker_ends_with_the_actor(toy: Toy) -> None:
    async with toy() as client:
        pid = client.boards()["toy"].pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(R3mesError):
        await ask(client, "say anything", deadline_s=0.2)


async def test_a_flood_leaves_another_owner_its_place_and_its_turn(toy: Toy) -> None:
    ended: list[str] = []

    async def one(client: InferenceClient, owner: str) -> None:
        with asking_for(owner):
            try:
                await ask(client, f"say {owner}", deadline_s=30)
            except Overloaded:
                ended.append("refused")
            else:
                ended.append(owner)

    async with toy(queue=8) as client, trio.open_nursery() as nursery:
        board = client.boards()["toy"]
        async with client.generate(job("count"), deadline_s=5):
            for _ in range(8):
                nursery.start_soon(one, client, "flood")
            with trio.fail_after(5):
                while board.waiting < 8:  # noqa: ASYNC110  no event for this
                    await trio.sleep(0.01)
            with asking_for("flood"), pytest.raises(Overloaded):
                client.check_room("toy", 30)
            with asking_for("other"):
                client.check_room("toy", 30)
            nursery.start_soon(one, client, "other")
            while not ended:  # noqa: ASYNC110  no event for this
                await trio.sleep(0.01)
    assert ended[0] == "refused"
    assert ended[1:].index("other") <= 1
    assert ended[1:].count("flood") == 7


async def test_one_that_does_not_fit_into_memory_waits(toy: Toy) -> None:
    async with toy(slots=2, device="room") as client, trio.open_nursery() as nursery:
        board = client.boards()["toy"]
        async with client.generate(job("count"), deadline_s=5):
            nursery.start_soon(ask, client, "say it fits", 5.0)
            with trio.fail_after(5):
                while not board.waiting:  # noqa: ASYNC110  no event for this
                    await trio.sleep(0.01)
            assert board.running == 1
            with pytest.raises(Overloaded, match="turn"):
                await ask(client, "say late", deadline_s=0.2)
        assert await answer(client, "started") == "3"  # the one that came too late never began
