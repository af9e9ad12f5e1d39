"""The surface as an OpenRPC document, made from the types of the functions.

Source: OpenRPC specification 1.3.2; left out are examples, links and content descriptors by
reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from r3mes.errors import (
    REGISTRY,
    ActorError,
    BadRequest,
    Forbidden,
    NotReady,
    R3mesError,
    RateLimited,
    StoreError,
    Unauthenticated,
)
from r3mes.node.rpc.messages import MAX_BATCH, error_data
from r3mes.node.rpc.method import Method
from r3mes.node.rpc.params import Params

ANY_METHOD: tuple[type[R3mesError], ...] = (
    BadRequest,
    Forbidden,
    Unauthenticated,
    RateLimited,
    NotReady,
    ActorError,
    StoreError,
    R3mesError,
)
"""What every method may answer with, the last for what nobody foresaw."""

Schemas: TypeAlias = dict[str, Any]

REF = "#/components/schemas/{model}"


def document(methods: Iterable[Method]) -> dict[str, object]:
    """The whole document."""
    listed = sorted(methods, key=lambda method: method.name)
    takes, gives, shared = _schemas(listed)
    return {
        "openrpc": "1.3.2",
        "info": {"title": "R3MES node", "version": version("r3mes")},
        "servers": [{"name": "this node", "url": "/rpc"}],
        "x-max-batch": MAX_BATCH,
        "methods": [
            {
                "name": method.name,
                "summary": method.summary,
                "description": method.description,
                "x-scope": method.scope,
                "paramStructure": "either",
                "params": _params(takes[method.name]),
                "result": {"name": "result", "schema": gives[method.name]},
                "errors": [{"$ref": f"#/components/errors/{code}"} for code in errors_of(method)],
            }
            for method in listed
        ],
        "components": {"schemas": shared, "errors": _errors(listed)},
    }


def _schemas(methods: Sequence[Method]) -> tuple[Schemas, Schemas, Schemas]:
    """The JSON schemas of parameters and of results, by method; and of the types they share."""
    params = {method.name: Params(method.call) for method in methods}
    takes = [(name, "validation", TypeAdapter(one.model)) for name, one in params.items()]
    gives = [(name, "serialization", TypeAdapter(one.result)) for name, one in params.items()]
    found, extra = TypeAdapter.json_schemas([*takes, *gives], ref_template=REF)  # type: ignore[list-item]
    shared: Schemas = dict(extra.get("$defs", {}))
    roots, named = {}, set()
    for name in params:
        schema = found[name, "validation"]
        reference = str(schema.get("$ref", "")).rpartition("/")[2]
        roots[name] = shared[reference] if reference else schema
        named.add(reference)  # of more than one method, if their functions are called the same
    types = {name: schema for name, schema in shared.items() if name not in named}
    return roots, {name: found[name, "serialization"] for name in params}, types


def _params(schema: Mapping[str, Any]) -> list[dict[str, object]]:
    """The properties of the model of the parameters, each as a content descriptor."""
    needed = schema.get("required", ())
    return [
        {
            "name": name,
            "description": part.get("description", ""),
            "required": name in needed,
            "schema": part,
        }
        for name, part in schema.get("properties", {}).items()
    ]


def errors_of(method: Method) -> list[str]:
    """The codes of what a method may answer with on purpose."""
    return [kind.kind.code for kind in (*method.errors, *ANY_METHOD)]


def _errors(methods: Iterable[Method]) -> dict[str, object]:
    codes = sorted({code for method in methods for code in errors_of(method)})
    return {code: _error(REGISTRY[code]()) for code in codes}


def _error(error: R3mesError) -> dict[str, object]:
    return {"code": error.kind.rpc, "message": error.detail, "data": error_data(error)}
