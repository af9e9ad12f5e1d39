"""Vectors of other wallets, and costs that do not slow a suite down."""

import json
from pathlib import Path
from typing import Any

import pytest

from r3mes.chain.keys.keystore import KdfCost

VECTORS = Path(__file__).parents[2] / "vectors" / "chain_vectors.json"


@pytest.fixture(scope="session")
def vectors() -> Any:
    return json.loads(VECTORS.read_text())


@pytest.fixture
def cheap() -> KdfCost:
    return KdfCost(ops=1, memory=8 << 10)
