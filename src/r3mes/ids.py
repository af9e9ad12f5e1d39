"""Identifiers, as types of their own so that one is never taken for another."""

from __future__ import annotations

from typing import NewType

PeerId = NewType("PeerId", str)
"""libp2p peer id in base58, such as ``12D3KooW…``: the multihash of the node key."""

Address = NewType("Address", str)
"""Account on the chain in bech32, such as ``remes1…``."""

ModelHash = NewType("ModelHash", bytes)
"""SHA-256 (32 bytes) of a model's manifest: what a name stands for."""

RequestHash = NewType("RequestHash", bytes)
"""SHA-256 (32 bytes) of the signed part of a request: names it in its receipt."""
