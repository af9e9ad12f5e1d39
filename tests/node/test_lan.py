"""Looking for nodes of the local network must never cost the node that looks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import zeroconf

from r3mes.node.lan import Lan
from r3mes.p2p.identity import NodeKey


class Quiet:
    """A network side that nobody is found for."""

    peer_id = NodeKey(b"l" * 32).peer_id
    addrs: Sequence[str] = ()


class Contested:
    """Multicast DNS where somebody else answers to every name."""

    closed: trio.Event

    def register_service(self, info: zeroconf.ServiceInfo) -> None:
        raise zeroconf.NonUniqueNameException

    def close(self) -> None:
        trio.from_thread.run_sync(self.closed.set)


async def test_a_name_that_another_machine_claims_is_borne(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Contested.closed = trio.Event()
    monkeypatch.setattr(zeroconf, "Zeroconf", Contested)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Lan(Quiet()).run)  # type: ignore[arg-type]
            await Contested.closed.wait()
            # The thread that closes ends a moment later.
            while "another machine claims the name" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
