"""``docs/rpc.md``, made from the methods: ``python -m r3mes.node.reference`` rewrites it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from r3mes.node.rpc.messages import MAX_BATCH, MAX_DEPTH
from r3mes.node.rpc.method import Method, methods_of
from r3mes.node.rpc.methods import NAMESPACES
from r3mes.node.rpc.openrpc import ANY_METHOD, document

HEAD = f"""\
# JSON-RPC 2.0

Made from `node/rpc/methods/` by `python -m r3mes.node.reference`.

The node answers [JSON-RPC 2.0](https://www.jsonrpc.org/specification) in two places:

* `POST /rpc` of the API (`api.listen`), with `Authorization: Bearer KEY`. The key's scopes decide:
  `r` read, `i` invoke, `w` wallet, `a` admin.
* `POST /rpc` on the admin socket (`api.admin_socket`, `admin.sock` in the data directory), without
  a key and with every scope: who may open the file may do everything.

~~~console
$ curl --unix-socket ~/.local/share/r3mes/admin.sock http://r3mes/rpc \\
    -d '{{"jsonrpc": "2.0", "id": 1, "method": "node_health"}}'
~~~

A WebSocket to `/rpc` of either takes the same messages, each as a text; `node_subscribe` has events
sent on it and `infer_stream` answers as they are written, both as notifications that begin when the
call has been answered. A node that stops lets those answers come to their end.

The key comes in the header `Authorization` and is looked at again with every call. The node pings
every 20 s. Who reads more slowly than there is to tell is closed with 1013 and goes on with the
cursor of the last event it has seen; 1001 says that the node stops, 1008 that the key is not valid
any more. Each call, of a batch too, counts as one request against the limits of the key.

What is refused before a message is read keeps its HTTP status (401 no or a wrong key, 403 another
host or a foreign web page, 413 too large, 408 too slow, 429 too often) and the headers of the
[HTTP API](http.md#errors); its body is an error as below, with `"id": null`. So is the answer to a
WebSocket that is not let in.

Parameters are given by name or by position. A message is at most {MAX_DEPTH} deep, {MAX_BATCH}
calls long and as large as `api.max_body_bytes`; the calls of a batch run side by side.
`rpc.discover` says all this to programs, with a JSON schema of every type.

An error has the `code`, `message` and `data` of [errors.md](errors.md): `data.id` and `data.code`
name it, `data.do` says what to do, `data.param` which parameter is at fault,
`data.retry_after_ms` when to try again, `data.incident` which lines of the node's log tell more.
Besides those named below every method may answer with these, or kinds of these:
{", ".join(f"`{kind.kind.code}` ({kind.kind.rpc})" for kind in ANY_METHOD)}.
"""


def all_methods() -> list[Method]:
    """Every method there is, without a running node."""
    return [method for namespace in NAMESPACES for method in methods_of(namespace)]


def rpc_page() -> str:
    """The whole page."""
    methods = all_methods()
    described: Any = document(methods)
    shared = described["components"]
    listed = {entry["name"]: entry for entry in described["methods"]}
    index = "".join(
        f"| [`{one.name}`](#{anchor(one.name)}) | {one.scope} | {one.summary} |\n"
        for one in methods
    )
    parts = [_method(one, listed[one.name], shared) for one in methods]
    types = [_type(name, schema) for name, schema in sorted(shared["schemas"].items())]
    head = "\n| method | scope | |\n|---|---|---|\n"
    return "".join([HEAD, head, index, *parts, "\n## Types\n", *types]).replace("``", "`")


def anchor(name: str) -> str:
    """What GitHub makes of a heading with this method's name."""
    return name.lower().replace(".", "")


def _method(method: Method, entry: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    errors = [f"`{kind.kind.code}` ({kind.kind.rpc})" for kind in method.errors]
    lines = [f"\n## {method.name}\n", method.summary]
    if method.description:
        lines.append(f"\n{method.description}")
    lines.append(f"\nScope `{method.scope}`. Answers with {short(entry['result']['schema'])}.")
    if errors:
        lines.append(f"Errors: {', '.join(errors)}.")
    if entry["params"]:
        lines.append("\n| parameter | type | default | |\n|---|---|---|---|")
        lines += [_row(part["name"], part["schema"], part["required"]) for part in entry["params"]]
    return "\n".join(lines) + "\n"


def _type(name: str, schema: Mapping[str, Any]) -> str:
    about = " ".join(schema.get("description", "").partition("\n\nArgs:")[0].split())
    head = f"\n### {name}\n\n{about}\n" if about else f"\n### {name}\n"
    notes = _args(schema.get("description", ""))
    rows = "".join(
        f"| `{field}` | {short(part)} | {part.get('description') or notes.get(field, '')} |\n"
        for field, part in schema.get("properties", {}).items()
    )
    return f"{head}\n| field | type | |\n|---|---|---|\n{rows}" if rows else head


def _args(docstring: str) -> dict[str, str]:
    """What a dataclass's docstring says of its fields."""
    notes: dict[str, str] = {}
    for line in docstring.partition("Args:\n")[2].splitlines():
        name, colon, text = line.strip().partition(": ")
        if colon and name.isidentifier():
            notes[name] = text
        elif notes:
            last = next(reversed(notes))
            notes[last] = f"{notes[last]} {line.strip()}".strip()
    return notes


def _row(name: str, schema: Mapping[str, Any], required: bool) -> str:
    default = "(needed)" if required else f"`{json.dumps(schema.get('default'))}`"
    return f"| `{name}` | {short(schema)} | {default} | {schema.get('description', '')} |"


def short(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf"):
        return " or ".join(short(choice) for choice in choices)
    if words := schema.get("enum"):
        return ", ".join(f"`{word}`" for word in words)
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "array":
            return f"array of {short(schema.get('items', {}))}"
        case "object" if isinstance(inner := schema.get("additionalProperties"), dict):
            return f"object of {short(inner)}"
        case None:
            return "any"
        case plain:
            return f"{plain}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    names: Iterable[tuple[str, str]] = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("minLength", "length ≥"),
        ("maxLength", "length ≤"),
    )
    found = [f"{sign} {schema[name]}" for name, sign in names if name in schema]
    return f" {', '.join(found)}" if found else ""
