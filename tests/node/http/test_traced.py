"""Which requests of applications begin a trace, and what of them is kept in it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.types import Message, Scope

from r3mes.config.schema import Limits
from r3mes.ids import PeerId
from r3mes.node.http.app import build_app
from r3mes.node.http.rates import Rates
from r3mes.node.otel import OtelTracer, provider
from r3mes.node.rpc.dispatcher import Dispatcher
from tests.node.conftest import SmallGateway, SmallKeyring, SmallState

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = b'{"model": "org/tiny", "messages": [{"role": "user", "content": "canary"}]}'


async def ask(
    *, path: str = "/v1/chat/completions", key: str | None = "r3k_both", method: str = "POST",
    traceparents: tuple[str, ...] = (), ratio: float = 1.0,
) -> tuple[ReadableSpan, ...]:  # fmt: skip
    spans = InMemorySpanExporter()
    app = build_app(
        gateway=SmallGateway(),
        keyring=SmallKeyring(),
        state=SmallState(),
        rpc=Dispatcher(),
        rates=Rates(Limits()),
        key_file=Path("api-key"),
        tracer=OtelTracer(provider(SimpleSpanProcessor(spans), PeerId("own")), ratio, Random(1)),  # noqa: S311
    )
    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"canary"),
        (b"x-request-id", b"canary"),
    ]
    headers += [(b"authorization", f"Bearer {key}".encode())] if key else []
    headers += [(b"traceparent", one.encode("latin-1")) for one in traceparents]
    scope: Scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"canary=1", "headers": headers, "root_path": "", "scheme": "http",
        "http_version": "1.1", "server": ("localhost", 1), "client": ("127.0.0.1", 2),
    }  # fmt: skip
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await trio.sleep_forever()
        sent = True
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(10):
        await app(scope, receive, send)
    return spans.get_finished_spans()


async def test_a_chat_begins_a_trace_of_its_own() -> None:
    (span,) = await ask()
    assert (span.name, span.parent) == ("POST /v1/chat/completions", None)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    assert "canary" not in span.to_json()


async def test_a_chat_goes_on_with_the_trace_of_its_application() -> None:
    (span,) = await ask(traceparents=(f"00-{TRACE}-{SPAN}-01",), ratio=0.0)
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)


async def test_an_application_may_ask_for_no_trace() -> None:
    assert await ask(traceparents=(f"00-{TRACE}-{SPAN}-00",)) == ()


@pytest.mark.parametrize(
    "traceparents",
    [
        ("nonsense",),
        (f"00-{TRACE}-{SPAN}-01" * 2000,),
        (f"00-{TRACE}-{SPAN}-01\xff",),
        (f"00-{'0' * 32}-{SPAN}-01",),
        (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
    ],
    ids=["word", "long", "latin", "zeros", "twice"],
)
async def test_a_traceparent_that_is_none_is_passed_over(traceparents: tuple[str, ...]) -> None:
    (span,) = await ask(traceparents=traceparents)
    assert (span.parent, f"{span.context.trace_id:032x}" == TRACE) == (None, False)
    assert await ask(traceparents=traceparents, ratio=0.0) == ()


async def test_who_has_no_key_makes_no_trace() -> None:
    for key in (None, "r3k_wrong"):
        assert await ask(key=key, traceparents=(f"00-{TRACE}-{SPAN}-01",)) == ()


async def test_other_requests_make_no_trace() -> None:
    assert await ask(path="/v1/models", method="GET") == ()
    assert await ask(method="GET") == ()
