"""docs/http.md names every route, its scope, and every field that is refused."""

from __future__ import annotations

from pathlib import Path

from r3mes.node.http import app
from r3mes.node.http.chat_request import NEUTRAL, ChatBody

PAGE = (Path(__file__).parents[3] / "docs" / "http.md").read_text()


def test_every_route_is_documented_with_its_scope() -> None:
    scopes = (
        (app.open_routes, "none needed"),
        (app.read_routes, "`r`"),
        (app.invoke_routes, "`i`"),
    )
    for router, scope in scopes:
        for route in router.routes:
            for method in getattr(route, "methods", ()):
                assert f"| `{method} {getattr(route, 'path', '')}` | {scope} |" in PAGE


def test_every_field_is_documented() -> None:
    fields = [*ChatBody.model_fields, *NEUTRAL]
    assert [name for name in fields if f"`{name}`" not in PAGE and f"`{name}." not in PAGE] == []
