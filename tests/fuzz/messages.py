"""Messages of JSON-RPC, made from the OpenRPC document, and what may answer them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from r3mes.errors import REGISTRY, CallMalformed, MethodNotFound, ParseFailed, R3mesError
from r3mes.node.rpc.openrpc import ANY_METHOD, document
from r3mes.node.rpc.reference import all_methods

LEFT_OUT = {"node_shutdown", "diag_doctor", "diag_bundle", "backup_create", "db_check"}
"""Never called as they want to be: the first ends the node; the others work for seconds each time,
one at a time, and 20 000 cases have no hours.  `unfit` calls them with what they refuse."""

METHODS = {method.name: method for method in all_methods()}
CALLED = sorted(METHODS.keys() - LEFT_OUT)
DOCUMENT: Any = document(METHODS.values())
SCHEMAS = DOCUMENT["components"]["schemas"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.sampled_from(["", "builtin", "12D3KooW", "/ip4/127.0.0.1/tcp/1", "r3mes", "../..", "\0"])
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


def fitting(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that a schema lets pass, or nearly."""
    if reference := schema.get("$ref"):
        found = SCHEMAS.get(reference.rpartition("/")[2], {})
        return fitting(found, depth + 1) if depth < 5 else junk
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([fitting(choice, depth) for choice in choices])
    if words := schema.get("enum"):
        return st.sampled_from(words)
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "string":
            most = min(schema.get("maxLength", 40), 200)
            return st.text(min_size=schema.get("minLength", 0), max_size=most)
        case "integer":
            return st.integers(schema.get("minimum", -(2**70)), schema.get("maximum", 2**70))
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            return st.lists(fitting(schema.get("items", {}), depth + 1), max_size=4)
        case "object":
            return fields(schema, depth)
        case _:
            return junk


def fields(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    parts = {
        name: fitting(part, depth + 1) | scalars
        for name, part in schema.get("properties", {}).items()
    }
    needed = {name: parts.pop(name) for name in schema.get("required", ()) if name in parts}
    return st.fixed_dictionaries(needed, optional=parts)


def params_of(name: str) -> st.SearchStrategy[Any]:
    (entry,) = [one for one in DOCUMENT["methods"] if one["name"] == name]
    schema = {
        "properties": {part["name"]: part["schema"] for part in entry["params"]},
        "required": [part["name"] for part in entry["params"] if part["required"]],
    }
    by_name = fields(schema)
    return st.one_of(
        by_name, by_name, by_name, by_name.map(lambda given: list(given.values())), junk
    )


def unfit(name: str) -> st.SearchStrategy[Any]:
    """Parameters that the method refuses, whatever is in them."""
    (entry,) = [one for one in DOCUMENT["methods"] if one["name"] == name]
    known = {part["name"] for part in entry["params"]}
    strangers = st.text(max_size=9).filter(lambda word: word not in known)
    too_many = st.lists(junk, min_size=len(known) + 1, max_size=len(known) + 3)
    return st.dictionaries(strangers, junk, min_size=1, max_size=3) | too_many


PARAMS = {name: params_of(name) for name in CALLED} | {name: unfit(name) for name in LEFT_OUT}
names = st.sampled_from(sorted(METHODS))
ids = st.integers() | st.text(max_size=9) | st.none() | st.floats(-9, 9)


@st.composite
def calls(draw: st.DrawFn) -> Any:
    """One call: mostly of a method that there is, now and then malformed."""
    name = draw(names)
    call = {
        "jsonrpc": "2.0",
        "id": draw(ids),
        "method": name,
        "params": draw(PARAMS.get(name, junk)),
    }
    changed = st.sampled_from(sorted(call.keys() - ({"params"} if name in LEFT_OUT else set())))
    match draw(st.integers(0, 19)):
        case 0:
            del call[draw(changed)]
        case 1:
            call[draw(changed)] = draw(junk)
        case 2:
            call["method"] = draw(st.text(max_size=30))
    return call


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A message: one call, a batch, something else, or bytes that are no JSON any more."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.binary(max_size=60))
    if kind == 1:
        return json.dumps(draw(junk)).encode()
    message = draw(st.lists(calls(), max_size=4)) if kind < 5 else draw(calls())
    body = json.dumps(message).encode()
    if kind == 5 and not any(name.encode() in body for name in LEFT_OUT):
        at = draw(st.integers(0, len(body)))
        return body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return body


def same(entry: object, answer: dict[str, Any]) -> bool:
    """Whether the two have the same id."""
    return isinstance(entry, dict) and entry.get("id") == answer["id"]


def allowed(entry: object) -> tuple[type[R3mesError], ...]:
    """What the documentation says that a call may be answered with."""
    name = entry.get("method") if isinstance(entry, dict) else None
    method = METHODS.get(name) if isinstance(name, str) else None
    known = ANY_METHOD[:-1] + (method.errors if method else ())  # the last is for the unforeseen
    return (*known, CallMalformed, ParseFailed, *(() if method else (MethodNotFound,)))


def check_answer(answer: Any, entries: Sequence[object]) -> None:
    """It has the form of an answer, and an error that one of these calls may be answered with."""
    assert answer["jsonrpc"] == "2.0"
    assert {"result", "error"} & answer.keys()
    assert "id" in answer
    if "error" not in answer:
        return
    error = answer["error"]
    kind = REGISTRY[error["data"]["code"]]
    assert kind is not R3mesError, error
    assert (error["code"], error["data"]["id"]) == (kind.kind.rpc, kind.kind.id)
    assert any(issubclass(kind, allowed(entry)) for entry in entries), (error, entries)
