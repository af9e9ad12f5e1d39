"""``/r3mes/infer/1.2.0``: one signed request, one answer streamed back, one receipt.

The serving node speaks first::

    server                                  gateway
    hello                          ->
                                   <-      request
    accepted | turned down         ->
    tokens ...                     ->
                                   <-      credit ..., cancel
    done | failed                  ->
                                   <-      receipt

Envelopes, results, signatures and bindings are opaque bytes here.  The bytes are in
``docs/wire.md``.
"""

from r3mes.p2p.protocols.infer.client import ClientCall, Patience
from r3mes.p2p.protocols.infer.messages import (
    INFER,
    INFER_1_0,
    INFER_1_1,
    Accepted,
    Cancel,
    Credit,
    Done,
    Failed,
    Hello,
    Message,
    ModelOffer,
    Receipt,
    Request,
    Tokens,
    TurnedDown,
    decode,
    encode,
)
from r3mes.p2p.protocols.infer.server import InferService, ServerCall, serve_infer

__all__ = [
    "INFER",
    "INFER_1_0",
    "INFER_1_1",
    "Accepted",
    "Cancel",
    "ClientCall",
    "Credit",
    "Done",
    "Failed",
    "Hello",
    "InferService",
    "Message",
    "ModelOffer",
    "Patience",
    "Receipt",
    "Request",
    "ServerCall",
    "Tokens",
    "TurnedDown",
    "decode",
    "encode",
    "serve_infer",
]
