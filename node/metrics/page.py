"""``/metrics`` on a listener of its own: without a key, so on loopback unless configured otherwise.

Source: prometheus-client 0.26 ``asgi.py``, which also speaks OpenMetrics with those who want it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector, make_asgi_app
from starlette.types import ASGIApp, Receive, Scope, Send

from r3mes.errors import NotFound
from r3mes.node.http.asgi import send_error
from r3mes.node.http.guards import Origins
from r3mes.node.metrics.looking import Looking

PATH = "/metrics"


def build_page(registry: CollectorRegistry, looking: Looking, *, listen: str) -> ASGIApp:
    """The application behind the listener.

    On loopback only requests that name loopback are answered, as for the API (DNS rebinding).  Who
    configured another address wants other machines to scrape it, under whatever name.
    """
    registry.register(looking)
    ProcessCollector(registry=registry)
    page: ASGIApp = make_asgi_app(registry)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] != PATH or scope["method"] not in ("GET", "HEAD"):
            await send_error(send, NotFound(f"there is only GET {PATH} here"))
        else:
            await looking.look()
            await page(scope, receive, send)

    on_loopback = listen.startswith(("127.", "localhost:", "[::1]:"))
    return Origins(app) if on_loopback else app


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        happened = (await receive())["type"]
        await send({"type": f"{happened}.complete"})
        if happened == "lifespan.shutdown":
            return
