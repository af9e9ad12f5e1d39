"""The application: routes, and the layers that a request passes before it reaches one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import trio
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from r3mes.actors.tracing import NO_TRACER, Tracer
from r3mes.errors import BadRequest, ModelNotFound, NotFound, R3mesError
from r3mes.node.embedding import NO_EMBEDDINGS, EmbeddingModel
from r3mes.node.http.asgi import refusal
from r3mes.node.http.auth import Admin, Auth, needs
from r3mes.node.http.chat_answer import StreamedAnswer, WholeAnswer
from r3mes.node.http.chat_request import ChatBody
from r3mes.node.http.cors import Cors
from r3mes.node.http.counted import Counted, Heard, unheard
from r3mes.node.http.embedding import EmbeddingBody, VectorsAnswer
from r3mes.node.http.errors import REFUSALS, as_r3mes_error, error_headers
from r3mes.node.http.faults import bad_request
from r3mes.node.http.guards import Allowed, BodyLimit, Origins, RequestId
from r3mes.node.http.keyed_gateway import KeyedGateway
from r3mes.node.http.ports import Embeddings, Gateway, Keyring, ModelEntry, NodeState
from r3mes.node.http.rates import Rates
from r3mes.node.http.traced import Traced
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.routes import rpc_routes
from r3mes.node.rpc.sessions import Sessions

MAX_BODY_BYTES = 1024 * 1024 - 4096

NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"""FastAPI's own, which variables of the environment could turn on, tells what callers sent."""

open_routes = APIRouter()
read_routes = APIRouter(dependencies=[Depends(needs("r"))], responses=REFUSALS)
invoke_routes = APIRouter(dependencies=[Depends(needs("i"))], responses=REFUSALS)
ROUTERS = (open_routes, read_routes, invoke_routes, rpc_routes)


def build_app(
    *,
    gateway: Gateway,
    keyring: Keyring,
    state: NodeState,
    rpc: Dispatcher,
    rates: Rates,
    key_file: Path,
    max_body_bytes: int = MAX_BODY_BYTES,
    allowed: Allowed | None = None,
    heard: Heard = unheard,
    stopping: trio.Event | None = None,
    tracer: Tracer = NO_TRACER,
    embeddings: Embeddings = NO_EMBEDDINGS,
) -> ASGIApp:
    """The node's HTTP application, for any ASGI server that runs on trio."""
    app = build_routes(gateway, state, rpc, stopping, embeddings)
    allowed = allowed or Allowed()
    limited = Traced(BodyLimit(app, max_body_bytes), tracer)
    ours = Origins(limited, allowed)
    known = Auth(ours, keyring, rates, key_file=key_file)
    routes = [route for router in ROUTERS for route in router.routes]
    return Counted(RequestId(Cors(known, allowed)), routes, heard)


def build_admin_app(
    *,
    gateway: Gateway,
    state: NodeState,
    rpc: Dispatcher,
    max_body_bytes: int = MAX_BODY_BYTES,
    stopping: trio.Event | None = None,
    tracer: Tracer = NO_TRACER,
    embeddings: Embeddings = NO_EMBEDDINGS,
) -> ASGIApp:
    """The same routes for the admin socket: whoever may open it may do everything."""
    app = build_routes(gateway, state, rpc, stopping, embeddings)
    limited = BodyLimit(app, max_body_bytes)
    return RequestId(Admin(Traced(limited, tracer)))


def build_routes(
    gateway: Gateway,
    state: NodeState,
    rpc: Dispatcher,
    stopping: trio.Event | None = None,
    embeddings: Embeddings = NO_EMBEDDINGS,
) -> FastAPI:
    """The routes alone, without the layers that guard them.

    ``stopping`` is set when the node stops, which ends what would last for ever.
    """
    app = FastAPI(
        title="R3MES node", version=version("r3mes"), openapi_url=None, telemetry=NO_TELEMETRY
    )
    app.state.gateway, app.state.node, app.state.rpc = gateway, state, rpc
    app.state.embeddings = embeddings
    app.state.sessions = Sessions(rpc, trio.Event() if stopping is None else stopping)
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(R3mesError, _failed)
    app.add_exception_handler(Exception, _failed)
    return app


def _gateway(request: Request) -> KeyedGateway:
    return KeyedGateway(request.app.state.gateway, request.scope["r3mes.key"])


def _node(request: Request) -> NodeState:
    node: NodeState = request.app.state.node
    return node


def _embeddings(request: Request) -> Embeddings:
    embeddings: Embeddings = request.app.state.embeddings
    return embeddings


TheGateway = Annotated[KeyedGateway, Depends(_gateway)]
TheNode = Annotated[NodeState, Depends(_node)]
TheEmbeddings = Annotated[Embeddings, Depends(_embeddings)]


@open_routes.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives and its event loop turns; nothing else is looked at."""
    return {"status": "ok"}


@open_routes.get("/readyz", responses={503: {"description": "The same, when it is not ready"}})
async def readyz(node: TheNode) -> JSONResponse:
    """Whether requests can be answered now; 503 with the reasons if not."""
    reasons = await node.not_ready()
    body = {"ready": not reasons, "reasons": list(reasons)}
    return JSONResponse(body, status_code=503 if reasons else 200)


@open_routes.get("/version")
async def show_version() -> dict[str, str]:
    """The version of the node."""
    return {"version": version("r3mes")}


@read_routes.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """The description of these routes, for tools that make clients."""
    app: FastAPI = request.app
    return JSONResponse(app.openapi())


@read_routes.get("/node/status")
async def status(node: TheNode) -> JSONResponse:
    """What `r3mes status --json` prints."""
    return JSONResponse(dict(await node.status()))


@read_routes.get("/v1/models")
async def models(gateway: TheGateway, embeddings: TheEmbeddings) -> dict[str, object]:
    """All models that can be asked for, here and at connected peers."""
    return {"object": "list", "data": await _models(gateway, embeddings)}


@read_routes.get("/v1/models/{model_id:path}")
async def model(model_id: str, gateway: TheGateway, embeddings: TheEmbeddings) -> dict[str, object]:
    """One model by its id, which may contain slashes."""
    gateway.check(model_id)
    for entry in await _models(gateway, embeddings):
        if entry["id"] == model_id:
            return entry
    raise ModelNotFound(f"the model {model_id!r} is not served by a connected node", param="model")


@invoke_routes.post("/v1/chat/completions")
async def chat_completions(body: ChatBody, request: Request, gateway: TheGateway) -> Response:
    """Continue a chat, as one object or as a stream."""
    request_id = request.scope["r3mes.request_id"]
    openings = [gateway.complete(replace(one, request_id=request_id)) for one in body.requests()]
    headers = {"x-r3mes-ignored": body.ignored()} if body.ignored() else {}
    if not body.stream:
        return WholeAnswer(openings, headers, one_call=body.one_call)
    options = body.stream_options
    return StreamedAnswer(
        openings,
        headers,
        one_call=body.one_call,
        include_usage=bool(options and options.include_usage),
    )


@invoke_routes.post("/v1/embeddings")
async def embeddings_of(
    body: EmbeddingBody, request: Request, gateway: TheGateway, embeddings: TheEmbeddings
) -> Response:
    """Make vectors of texts, with this node's own model for that."""
    gateway.check(body.model)
    asked = replace(
        body.request(),
        key_id=request.scope["r3mes.key"].id,
        request_id=request.scope["r3mes.request_id"],
    )
    headers = {"x-r3mes-ignored": body.ignored()} if body.ignored() else {}
    return VectorsAnswer(partial(embeddings.embed, asked), headers, body.encoding_format)


async def _models(gateway: KeyedGateway, embeddings: Embeddings) -> list[dict[str, object]]:
    vectors = [one for one in embeddings.models() if gateway.allows(one.id, one.hash_hex)]
    return [*map(_model, await gateway.models()), *map(_embedding_model, vectors)]


def _embedding_model(model: EmbeddingModel) -> dict[str, object]:
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "local",
        "r3mes": {
            "hash": model.hash_hex,
            "context": model.context,
            "price_prompt": 0,
            "price_completion": 0,
            "embeddings": {"dimensions": model.dimensions, "shortens": model.shortens},
        },
    }


def _model(entry: ModelEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "object": "model",
        "created": 0,
        "owned_by": entry.owned_by,
        "r3mes": {
            "hash": entry.hash_hex,
            "context": entry.context,
            "price_prompt": entry.price_prompt,
            "price_completion": entry.price_completion,
        },
    }


async def _failed(request: Request, error: Exception) -> Response:
    known = as_r3mes_error(error)
    return Response(
        refusal(request.scope, known),
        status_code=known.kind.http,
        headers=error_headers(known),
        media_type="application/json",
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: an unknown path, a wrong method, a body that is not JSON."""
    path = request.url.path
    match getattr(error, "status_code", 400):
        case 404:
            known: R3mesError = NotFound(f"there is no {path}")
        case 405:
            known = NotFound(f"{path} does not take {request.method}")
        case _:
            known = BadRequest("the body is not valid JSON in UTF-8")
    return await _failed(request, known)


async def _invalid(request: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else ()
    if any(fault["type"] == "model_attributes_type" and len(fault["loc"]) == 1 for fault in faults):
        return await _failed(request, _no_object(request))
    return await _failed(request, bad_request(faults))


def _no_object(request: Request) -> BadRequest:
    """The body was not read as JSON, because of its type, or is something else than an object."""
    kind = request.headers.get("content-type", "")
    if "json" in kind:
        return BadRequest("the body is JSON, but not an object", do="send an object: {…}")
    return BadRequest(
        f"the body was sent as {kind!r} and not as JSON",
        do="send it with the header 'Content-Type: application/json'",
    )
