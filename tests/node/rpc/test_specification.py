"""What JSON-RPC 2.0 says, with the examples of its specification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import pytest
import trio
from pydantic import Field

from r3mes.errors import NotFound
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.method import method


@dataclass(frozen=True)
class Key:
    id: str = "test"
    name: str = "test"
    scopes: frozenset[str] = frozenset("r")
    models: None = None
    rpm: None = None
    expires_ms: None = None


@dataclass
class Examples:
    """The methods that the specification's examples call."""

    seen: list[Any] = field(default_factory=list)
    met: trio.Event = field(default_factory=trio.Event)

    @method("subtract", scope="r")
    async def subtract(self, minuend: int, subtrahend: int) -> int:
        """The difference."""
        return minuend - subtrahend

    @method("sum", scope="r")
    async def sum(self, a: int, b: int, c: int) -> int:
        return a + b + c

    @method("update", scope="r")
    async def update(self, a: int, b: int, c: int, d: int, e: int) -> None:
        self.seen.append((a, b, c, d, e))

    @method("notify_hello", scope="r")
    async def notify_hello(self, number: int) -> None:
        self.seen.append(number)

    @method("get_data", scope="r")
    async def get_data(self) -> list[object]:
        return ["hello", 5]

    @method("admin", scope="a")
    async def admin(self, number: int) -> int:
        return number

    @method("broken", scope="r")
    async def broken(self, secret: str) -> None:
        raise RuntimeError("the cable is loose")

    @method("not_json", scope="r")
    async def not_json(self) -> object:
        return object()

    @method("missing", scope="r", errors=(NotFound,))
    async def missing(self) -> None:
        raise NotFound("no such thing", param="id", retry_after_s=1.5)

    @method("bounded", scope="r")
    async def bounded(self, limit: Annotated[int, Field(ge=1, le=9)] = 3) -> int:
        return limit

    @method("first", scope="r")
    async def first(self) -> str:
        await self.met.wait()
        return "first"

    @method("second", scope="r")
    async def second(self) -> str:
        self.met.set()
        return "second"


async def answer(text: str | bytes | object, rpc: Dispatcher | None = None) -> Any:
    body = text if isinstance(text, bytes) else text.encode() if isinstance(text, str) else None
    body = msgspec.json.encode(text) if body is None else body
    told = await (rpc or Dispatcher(Examples())).answer(body, Context(Key()))
    return None if told is None else msgspec.json.decode(told)


def call(name: str, params: object = None, **members: object) -> dict[str, object]:
    given = {} if params is None else {"params": params}
    return {"jsonrpc": "2.0", "method": name, "id": 1} | given | members


def without_data(told: Any) -> Any:
    """The answer as the specification shows it; what we add under ``data`` is ours."""
    if isinstance(told, list):
        return [without_data(one) for one in told]
    if isinstance(told, dict) and "error" in told:
        return {**told, "error": told["error"]["code"]}
    return told


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (
            '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
            {"jsonrpc": "2.0", "result": 19, "id": 1},
        ),
        (
            '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
            {"jsonrpc": "2.0", "result": -19, "id": 2},
        ),
        (
            '{"jsonrpc": "2.0", "method": "subtract", '
            '"params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
            {"jsonrpc": "2.0", "result": 19, "id": 3},
        ),
        (
            '{"jsonrpc": "2.0", "method": "subtract", '
            '"params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
            {"jsonrpc": "2.0", "result": 19, "id": 4},
        ),
        ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
        ('{"jsonrpc": "2.0", "method": "foobar"}', None),
        (
            '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}',
            {"jsonrpc": "2.0", "error": -32601, "id": "1"},
        ),
        (
            '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
            {"jsonrpc": "2.0", "error": -32700, "id": None},
        ),
        (
            '{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
            {"jsonrpc": "2.0", "error": -32600, "id": None},
        ),
        (
            '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
            '{"jsonrpc": "2.0", "method"]',
            {"jsonrpc": "2.0", "error": -32700, "id": None},
        ),
        ("[]", {"jsonrpc": "2.0", "error": -32600, "id": None}),
        ("[1]", [{"jsonrpc": "2.0", "error": -32600, "id": None}]),
        ("[1,2,3]", [{"jsonrpc": "2.0", "error": -32600, "id": None}] * 3),
        (
            '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
            '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
            '{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},'
            '{"foo": "boo"},'
            '{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
            '{"jsonrpc": "2.0", "method": "get_data", "id": "9"}]',
            [
                {"jsonrpc": "2.0", "result": 7, "id": "1"},
                {"jsonrpc": "2.0", "result": 19, "id": "2"},
                {"jsonrpc": "2.0", "error": -32600, "id": None},
                {"jsonrpc": "2.0", "error": -32601, "id": "5"},
                {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"},
            ],
        ),
        (
            '[{"jsonrpc": "2.0", "method": "notify_hello", "params": [1]},'
            '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
            None,
        ),
    ],
)
async def test_example_of_the_specification(sent: str, expected: object) -> None:
    assert without_data(await answer(sent)) == expected


async def test_notification_is_carried_out_and_gets_no_answer_even_if_it_fails() -> None:
    examples = Examples()
    rpc = Dispatcher(examples)
    assert await answer({"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}, rpc) is None
    assert await answer({"jsonrpc": "2.0", "method": "broken", "params": ["x"]}, rpc) is None
    assert await answer({"jsonrpc": "2.0", "method": "subtract", "params": [1]}, rpc) is None
    assert examples.seen == [7]


async def test_null_id_is_an_id() -> None:
    told = await answer(call("get_data", id=None))
    assert told == {"jsonrpc": "2.0", "result": ["hello", 5], "id": None}


@pytest.mark.parametrize("known", ["", "a", 0, -1, 2**63, 1.5])
async def test_id_comes_back_as_it_came(known: object) -> None:
    assert (await answer(call("get_data", id=known)))["id"] == known


@pytest.mark.parametrize("known", [True, [], {}])
async def test_id_of_another_type_is_refused(known: object) -> None:
    told = await answer(call("get_data", id=known))
    assert (told["error"]["code"], told["id"]) == (-32600, None)


async def test_call_that_is_not_well_formed_keeps_its_id() -> None:
    told = await answer(call("get_data", params=5, id=9))
    assert (told["error"]["code"], told["error"]["data"]["param"], told["id"]) == (
        -32600,
        "params",
        9,
    )


async def test_calls_with_the_same_id_are_each_answered() -> None:
    told = await answer([call("subtract", [3, 1]), call("subtract", [3, 2])])
    assert [one["result"] for one in told] == [2, 1]


async def test_calls_of_a_batch_run_side_by_side_and_answers_keep_their_order() -> None:
    with trio.fail_after(5):
        told = await answer([call("first"), call("second")])
    assert [one["result"] for one in told] == ["first", "second"]


async def test_batch_over_the_limit_is_refused_whole() -> None:
    examples = Examples()
    rpc = Dispatcher(examples)
    notification = {"jsonrpc": "2.0", "method": "notify_hello", "params": [1]}
    told = await answer([notification] * 101, rpc)
    assert told["error"]["code"] == -32600
    assert "101" in told["error"]["message"]
    assert examples.seen == []
    assert await answer([notification] * 100, rpc) is None
    assert len(examples.seen) == 100


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"minuend": 1}, "subtrahend"),
        ({"minuend": 1, "subtrahend": "2"}, "subtrahend"),
        ({"minuend": True, "subtrahend": 2}, "minuend"),
        ({"minuend": 1.5, "subtrahend": 2}, "minuend"),
        ({"minuend": None, "subtrahend": 2}, "minuend"),
        ({"minuend": 1, "subtrahend": 2, "more": 3}, "more"),
        ([1], "subtrahend"),
        ([1, 2, 3], None),
        ({}, "minuend"),
    ],
)
async def test_wrong_parameters_are_refused_by_name(params: object, names: str | None) -> None:
    told = await answer(call("subtract", params))
    assert told["error"]["code"] == -32602
    assert told["error"]["data"].get("param") == names


async def test_bounds_and_defaults_of_parameters_hold() -> None:
    assert (await answer(call("bounded")))["result"] == 3
    assert (await answer(call("bounded", {"limit": 9})))["result"] == 9
    assert (await answer(call("bounded", {"limit": 10})))["error"]["code"] == -32602


async def test_missing_scope_is_refused_before_the_parameters_are_looked_at() -> None:
    told = await answer(call("admin", {"nonsense": 1}))
    assert told["error"]["code"] == -32002
    assert "'a'" in told["error"]["message"]


async def test_refusal_carries_all_that_the_registry_knows() -> None:
    told = await answer(call("missing"))
    assert told["error"] == {
        "code": -32016,
        "message": "no such thing",
        "data": {
            "id": "R3-REQ-004",
            "code": "not_found",
            "do": NotFound.kind.do,
            "param": "id",
            "retry_after_ms": 1500,
        },
    }


async def test_unforeseen_error_is_told_by_its_incident_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = await answer([call("broken", ["hunter2"]), call("not_json")])
    assert [one["error"]["code"] for one in told] == [-32603, -32603]
    incident = told[0]["error"]["data"]["incident"]
    assert "cable" not in str(told)
    (record,) = [record for record in caplog.records if incident in record.getMessage()]
    assert record.exc_info is not None
    assert "cable" in caplog.text
    assert "hunter2" not in caplog.text.replace('("hunter2")', "")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense",
        b"{",
        b"\xff\xfe",
        b'"\\ud800"',
        b"NaN",
        b"1e999",
        b"-" + b"9" * 5000,
        b"[" * 500_000,
        b'"' * 500_001,
        b'"' + b'\\"' * 250_000,
        b'{"jsonrpc": "2.0"} {}',
    ],
)
async def test_what_is_not_json_is_a_parse_error(sent: bytes) -> None:
    with trio.fail_after(5):
        told = await answer(sent)
    assert (told["error"]["code"], told["id"]) == (-32700, None)


@pytest.mark.parametrize(("depth", "code"), [(60, -32602), (65, -32600), (100_000, -32600)])
async def test_nesting_is_bounded_before_anything_is_decoded(depth: int, code: int) -> None:
    nested = "[" * depth + "]" * depth
    head = '{"jsonrpc": "2.0", "method": "bounded", "id": 1, "params": '
    sent = f'{head}{{"limit": {nested}}}}}'
    assert (await answer(sent))["error"]["code"] == code


async def test_brackets_in_strings_are_not_nesting() -> None:
    told = await answer(call("broken", {"secret": '[{"\\' * 200, "x": 1}))
    assert told["error"]["code"] == -32602


def test_two_methods_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="same name"):
        Dispatcher(Examples(), Examples())
