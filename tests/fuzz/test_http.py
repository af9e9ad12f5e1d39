"""The HTTP API under schemathesis: made from its own OpenAPI document, and answers by it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from r3mes.errors import REGISTRY, R3mesError
from tests.fuzz.conftest import CASES

if TYPE_CHECKING:
    from tests.fuzz.conftest import Node

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis

pytestmark = pytest.mark.slow

KINDS = {(kind.kind.http, kind.kind.code) for kind in REGISTRY.values() if kind is not R3mesError}


def test_every_answer_is_documented(node: Node) -> None:
    document = node.daemon.get("/openapi.json").json()
    schema: Any = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 8
    for number, operation in enumerate(operations):
        _attack(node, operation, number, CASES // 5 // len(operations))
    node.is_unharmed()


def _attack(node: Node, operation: Any, number: int, cases: int) -> None:
    documented = operation.definition.raw["responses"]

    @seed(number)
    @given(operation.as_strategy())
    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    def send(case: Any) -> None:
        answer = case.call(base_url=node.daemon.url, headers=node.daemon.headers)
        status = answer.status_code
        assert str(status) in documented or f"{status // 100}XX" in documented, answer.text
        if status >= 400:
            assert (status, _code(answer.json())) in KINDS, answer.text

    send()


def _code(body: Any) -> str:
    """Of an error in OpenAI's form, in that of JSON-RPC, or of the answer of ``/readyz``."""
    if "error" not in body:
        return "not_ready"
    error = body["error"]
    return str(error["data"]["code"] if "jsonrpc" in body else error["code"])
