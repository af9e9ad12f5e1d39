"""A hub on loopback: the listing and the files of one model, over real HTTP, with faults."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

COMMIT, NEXT = "1" * 40, "2" * 40
LARGE = "model.safetensors"


@dataclass
class Fault:
    """What goes wrong with a file: after ``after`` bytes, ``times`` times."""

    how: str
    after: int = 0
    times: int = 1


@dataclass
class SmallHub:
    """What it serves, and what it was asked for.

    Args:
        files: of the model; weights are announced by SHA-256, others by git's blob id.
        faults: by file: ``cut``, ``stall``, ``wrong``, ``more`` or a status.
        ranges: whether it goes on in the middle.
        moved: whether weights are on another host, to which it redirects.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    faults: dict[str, Fault] = field(default_factory=dict)
    ranges: bool = True
    moved: bool = False
    listing: Any = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""
    elsewhere: str = ""

    @property
    def offsets(self) -> list[str]:
        """From where on files were asked for in the middle."""
        return [headers["range"] for _, headers in self.asked if "range" in headers]

    @property
    def counts(self) -> Counter[str]:
        return Counter(path.rpartition("/")[2] for path, _ in self.asked)

    def listed(self) -> Any:
        return self.listing or {
            "sha": self.commit,
            "siblings": [_sibling(name, content) for name, content in self.files.items()],
        }

    async def answer(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(4096) or b"\r\n\r\n"
        request, *lines = head.decode().split("\r\n")
        path = request.split()[1] if request else ""
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        self.asked.append((path, headers))
        try:
            await self._respond(stream, path, headers)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await stream.aclose()

    async def _respond(self, stream: trio.SocketStream, path: str, headers: dict[str, str]) -> None:
        if path.startswith("/api/models/"):
            fault = self._fault("listing")
            status = int(fault.how) if fault else 200
            await _send(stream, status, json.dumps(self.listed()).encode())
            return
        name = path.partition(f"/{self.commit}/")[2] or path.rpartition("/")[2]
        if self.moved and name == LARGE and not path.startswith("/elsewhere"):
            await _send(stream, 302, b"", f"Location: {self.elsewhere}/elsewhere/{name}\r\n")
            return
        content, fault = self.files.get(name, b""), self._fault(name)
        start = int(headers.get("range", "bytes=0-")[6:-1]) if self.ranges else 0
        if fault is not None:
            await _fail(stream, fault, content, start)
        else:
            await _send(stream, 206 if start else 200, content[start:])

    def _fault(self, name: str) -> Fault | None:
        fault = self.faults.get(name)
        if fault is None or fault.times == 0:
            return None
        fault.times -= 1
        return fault


async def _fail(stream: trio.SocketStream, fault: Fault, content: bytes, start: int) -> None:
    match fault.how:
        case "wrong":
            await _send(stream, 200, b"x" * len(content))
        case "more":
            await _send(stream, 200, content + b"more")
        case "cut" | "stall":
            length = f"Content-Length: {len(content) - start}\r\n"
            head = f"HTTP/1.1 {206 if start else 200} ok\r\n{length}\r\n".encode()
            await stream.send_all(head + content[start : start + fault.after])
            if fault.how == "stall":
                await trio.sleep_forever()
        case status:
            await _send(stream, int(status), b"")


async def _send(stream: trio.SocketStream, status: int, body: bytes, more: str = "") -> None:
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    await stream.send_all(head.encode() + body)


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    told: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith(".safetensors"):
        told["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return told


@asynccontextmanager
async def serving_hub(hub: SmallHub) -> AsyncIterator[SmallHub]:
    """Serve it at two free ports of loopback, as if they were two hosts."""
    async with trio.open_nursery() as nursery:
        ports = []
        for host in ("127.0.0.1", "127.0.0.2"):
            listeners = await trio.open_tcp_listeners(0, host=host)
            ports.append(listeners[0].socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, hub.answer, listeners)
        hub.endpoint = f"http://127.0.0.1:{ports[0]}"
        hub.elsewhere = f"http://127.0.0.2:{ports[1]}"
        yield hub
        nursery.cancel_scope.cancel()
