"""The WebSocket under fire: messages, frames, floods, and callers who never read.

It is attacked on the admin socket, where no key and no rate stands before it; those have tests in
`tests/node/rpc/test_websocket.py`.  No model is loaded, so that every `infer_stream` ends with an
error: what it sends of an answer is `tests/node/rpc/test_infer_stream.py`'s.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

from benchmarks.daemons import wait
from r3mes.node.http.server import WEBSOCKET_BYTES
from r3mes.node.rpc.sessions import MAX_SESSIONS, MAX_SUBSCRIPTIONS
from tests.fuzz.conftest import CASES
from tests.fuzz.messages import bodies, check_answer, same

if TYPE_CHECKING:
    from tests.fuzz.conftest import Node

pytestmark = pytest.mark.slow

NOTIFICATIONS = {"node_event", "infer_chunk", "infer_end"}
PATIENCE_S = 60.0
few = settings(
    max_examples=max(20, CASES // 20),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def call(number: object, name: str, **params: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": name, "params": params})


def connect(node: Node) -> ClientConnection:
    path = node.daemon.running.admin
    return unix_connect(path, "ws://node/rpc", compression=None, max_size=None)


class Line:
    """A connection that is kept from case to case, and what was sent on it."""

    def __init__(self, node: Node) -> None:
        self.node, self.rounds = node, 0
        self._open()

    def _open(self) -> None:
        self._opened = ExitStack()
        self.socket: Any = self._opened.enter_context(connect(self.node))
        self.sent: list[object] = []

    def send(self, body: bytes, *, as_text: bool) -> None:
        try:
            text: str | bytes = body.decode() if as_text else body
        except UnicodeDecodeError:
            text = body
        self.socket.send(text)
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            message = None
        self.sent += message if isinstance(message, list) else [message]

    def read(self) -> None:
        """Every message up to the answer to a call that comes now; late ones come next time."""
        self.rounds += 1
        mark = f"mark {self.rounds}"
        self.socket.send(call(mark, "rpc_modules"))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE_S))
            for one in message if isinstance(message, list) else [message]:
                if one.get("id") == mark:
                    assert "result" in one
                    return
                self._check(one)

    def _check(self, one: Any) -> None:
        if "method" in one:
            assert one["method"] in NOTIFICATIONS
            assert "id" not in one
            assert "subscription" in one["params"]
        else:
            check_answer(one, [entry for entry in self.sent if same(entry, one)] or self.sent)

    def close(self) -> None:
        self._opened.close()

    def renew(self) -> None:
        self.close()
        self._open()


def test_every_answer_is_documented(node: Node) -> None:
    line = Line(node)

    @seed(1)
    @given(st.lists(st.tuples(bodies(), st.booleans()), min_size=1, max_size=6))
    @few
    def send(messages: list[tuple[bytes, bool]]) -> None:
        for body, as_text in messages:
            line.send(body, as_text=as_text)
        line.read()
        if line.rounds % 50 == 0:
            line.renew()  # its subscriptions are used up by then

    send()
    line.close()
    node.call("node_resume")
    node.is_unharmed()


def frame(kind: int, data: bytes, *, mask: bool = True, last: bool = True, extra: int = 0) -> bytes:
    """A frame as RFC 6455, section 5.2 draws it; the mask is of zeros."""
    head = bytes([last << 7 | extra << 4 | kind])
    size = len(data)
    if size < 126:
        head += bytes([mask << 7 | size])
    elif size < 1 << 16:
        head += bytes([mask << 7 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask << 7 | 127]) + struct.pack(">Q", size)
    return head + (bytes(4) if mask else b"") + data


frames = st.binary(max_size=60) | st.builds(
    frame,
    st.integers(0, 15),
    st.binary(max_size=300) | st.just(b"{}") | st.just(struct.pack(">H", 1000)),
    mask=st.sampled_from([True, True, True, False]),
    last=st.sampled_from([True, True, False]),
    extra=st.sampled_from([0, 0, 0, 1, 4, 7]),
)


def shaken(node: Node) -> socket.socket:
    """A connection after the handshake, below which one can send whatever one likes."""
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(PATIENCE_S)
    raw.connect(node.daemon.running.admin)
    key = base64.b64encode(bytes(16))
    raw.sendall(
        b"GET /rpc HTTP/1.1\r\nhost: node\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: " + key + b"\r\n\r\n"
    )
    assert raw.recv(65536).startswith(b"HTTP/1.1 101 ")
    return raw


def test_frames_that_are_none_end_at_most_their_own_connection(node: Node) -> None:
    with connect(node) as bystander:

        @seed(2)
        @given(st.lists(frames, min_size=1, max_size=8), st.booleans())
        @few
        def send(pieces: list[bytes], together: bool) -> None:
            with closing(shaken(node)) as raw:
                try:
                    for piece in [b"".join(pieces)] if together else pieces:
                        raw.sendall(piece)
                except OSError:  # the node has had enough of it
                    pass
            bystander.send(call(1, "rpc_modules"))
            assert "result" in json.loads(bystander.recv(timeout=PATIENCE_S))

        send()
    node.is_unharmed()


@pytest.mark.parametrize("parts", [1, 2000])
def test_what_is_too_large_ends_its_connection(node: Node, parts: int) -> None:
    with connect(node) as line:
        size = (WEBSOCKET_BYTES + parts) // parts
        line.send("x" * (size + 1) if parts == 1 else ("x" * size for _ in range(parts + 1)))
        with pytest.raises(ConnectionClosed) as ended:
            line.recv(timeout=PATIENCE_S)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1009
    node.is_unharmed()


def test_what_comes_after_too_much_is_not_kept(node: Node) -> None:
    before = resident_bytes(node)
    with closing(shaken(node)) as raw:
        raw.sendall(frame(1, b"x" * 65_000, last=False))
        for _ in range(1500):
            raw.sendall(frame(0, b"x" * 65_000, last=False))
        raw.sendall(frame(8, struct.pack(">H", 1000)))
        said = b""
        while part := raw.recv(65536):
            said += part
    assert struct.pack(">H", 1009) in said
    assert resident_bytes(node) - before < 30 << 20  # of 97 MB
    node.is_unharmed()


def resident_bytes(node: Node) -> int:
    pages = Path(f"/proc/{node.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def test_of_thousands_of_subscriptions_a_few_begin(node: Node) -> None:
    with connect(node) as line:
        begun = 0
        for number in range(30):
            batch = [json.loads(call(at, "node_subscribe", topics=["status"])) for at in range(100)]
            line.send(json.dumps(batch))
            while not isinstance(told := json.loads(line.recv(timeout=PATIENCE_S)), list):
                assert told["method"] == "node_event"
            begun += sum("result" in one for one in told)
            assert {one["error"]["code"] for one in told if "error" in one} == {-32012}, number
    assert begun == MAX_SUBSCRIPTIONS
    node.is_unharmed()


def test_connections_without_end_are_refused_and_let_in_again(node: Node) -> None:
    with ExitStack() as opened:
        with pytest.raises(InvalidStatus):
            for _ in range(MAX_SESSIONS + 1):
                opened.enter_context(connect(node))
        node.call("node_status")  # calls of their own are still answered

    def let_in() -> bool | None:
        try:
            with connect(node) as line:
                line.send(call(1, "rpc_modules"))
                return "result" in json.loads(line.recv(timeout=PATIENCE_S))
        except InvalidStatus:
            return None

    wait(let_in, "a place")
    node.is_unharmed()


def test_who_never_reads_is_alone_with_it(node: Node) -> None:
    stuck = [shaken(node) for _ in range(8)]
    try:
        for raw in stuck:
            raw.sendall(frame(1, call(0, "node_subscribe", topics=["logs"]).encode()))
            raw.settimeout(0.2)
            try:
                for number in range(200):
                    raw.sendall(frame(1, call(number, "rpc.discover").encode()))
                    raw.sendall(frame(9, b"are you there?"))
            except TimeoutError:  # it does not read on for ever, either
                pass
        for _ in range(20):
            node.call("node_status")
        with connect(node) as line:
            line.send(call(1, "rpc_modules"))
            assert "result" in json.loads(line.recv(timeout=PATIENCE_S))
    finally:
        for raw in stuck:
            raw.close()
    node.is_unharmed()
