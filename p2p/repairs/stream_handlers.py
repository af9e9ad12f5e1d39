"""P6: no exception of a stream handler leaves its stream; no peer opens streams without end.

Defect: handlers run in the nursery of their connection, whose parent is a system task: any
exception in any of them, libp2p's own included (a malformed pubsub message is enough), ends the
whole process.  And a stream costs up to a window of memory before it has named its protocol.

Fix: an exception resets its stream and is logged.  Above `STREAMS_PER_CONNECTION` at once new
streams are reset.
"""

from __future__ import annotations

import logging

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost

logger = logging.getLogger(__name__)

STREAMS_PER_CONNECTION = 128
"""64 of one protocol, those being closed, and libp2p's own."""
RESET_S = 2.0

_swarm_stream_handler = BasicHost._swarm_stream_handler


async def _guarded(self: BasicHost, net_stream: INetStream) -> None:
    connection = net_stream.muxed_conn
    open_now = connection.__dict__.setdefault("r3mes_inbound_streams", set())
    if len(open_now) >= STREAMS_PER_CONNECTION:
        await _reset(net_stream)
        return
    open_now.add(net_stream)
    try:
        await _swarm_stream_handler(self, net_stream)
    except Exception as error:  # noqa: BLE001 crash boundary of every protocol
        logger.info(
            "a stream of %s (%s) failed: %r", connection.peer_id, net_stream.get_protocol(), error
        )
        await _reset(net_stream)
    finally:
        open_now.discard(net_stream)


async def _reset(stream: INetStream) -> None:
    with trio.move_on_after(RESET_S, shield=True):
        try:
            await stream.reset()
        except Exception as error:  # noqa: BLE001 the stream is given up in any case
            logger.debug("resetting a stream: %r", error)


def apply() -> None:
    """Put the repair in place."""
    BasicHost._swarm_stream_handler = _guarded  # type: ignore[method-assign]
