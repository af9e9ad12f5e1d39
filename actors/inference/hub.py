"""The Hugging Face hub, or a mirror that speaks its API, as a source of models.

Source: the hub's own client, ``huggingface_hub``: ``HfApi.model_info`` and ``hf_hub_url``.  Kept:
the revision is resolved to a commit once and files are read by that; sizes and SHA-256 of large
files come from the listing, of small ones git's blob id.  Left out: Xet and its chunks.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import cache
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import trio

from r3mes.actors.inference.library import COMMIT
from r3mes.actors.inference.source import WANTED, Listing, RemoteFile, Stream, is_hub_id
from r3mes.errors import BadRequest, HubUnreachable, ModelMissing

LISTING_CAP = 16 * 1024 * 1024
RETRIED = (408, 425, 429, 500, 502, 503, 504)


class _Lfs(msgspec.Struct, frozen=True):
    sha256: str


class _Sibling(msgspec.Struct, frozen=True):
    rfilename: str
    size: int | None = None
    blobId: str | None = None  # noqa: N815  as the hub says it
    lfs: _Lfs | None = None


class _Info(msgspec.Struct, frozen=True):
    sha: str
    siblings: list[_Sibling]


class Hub:
    """Asks by HTTPS; a token goes to the endpoint only, never where it redirects to.

    Args:
        endpoint: such as ``https://huggingface.co``.
        token: for models that are not for everybody.
        stall_s: silence after which a connection counts as lost.
    """

    def __init__(self, endpoint: str, token: str | None = None, *, stall_s: float = 30.0) -> None:
        self._endpoint, self._stall_s = endpoint.rstrip("/"), stall_s
        self._headers = {"user-agent": "r3mes", "accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    async def listing(self, model: str, revision: str) -> Listing:
        if not is_hub_id(model):
            raise BadRequest(f"{model[:128]!r} is no id of the hub: owner/name", param="id")
        path = f"/api/models/{model}/revision/{quote(revision, safe='')}?blobs=true"
        async with self._get(path, model, {}) as (response, host):
            body = await _whole(response, host, self._stall_s)
        try:
            info = msgspec.json.decode(body, type=_Info)
            files = tuple(_file(one) for one in info.siblings if WANTED.fullmatch(one.rfilename))
        except (msgspec.MsgspecError, ValueError) as error:
            raise HubUnreachable(f"{host} does not speak the hub's API: {error}") from None
        if COMMIT.fullmatch(info.sha) is None:
            raise HubUnreachable(f"{host} does not speak the hub's API: it names no commit")
        return Listing(model, revision, info.sha, _one_copy(files), host)

    @asynccontextmanager
    async def read(self, listing: Listing, file: RemoteFile, offset: int) -> AsyncIterator[Stream]:
        path = f"/{listing.model}/resolve/{listing.commit}/{quote(file.name)}"
        wanted = {"range": f"bytes={offset}-"} if offset else {}
        async with self._get(path, listing.model, wanted) as (response, host):
            start = offset if response.status_code == 206 else 0
            async with _chunks(response, host, self._stall_s) as chunks:
                yield Stream(start, chunks, host)

    @asynccontextmanager
    async def _get(
        self, path: str, model: str, headers: dict[str, str]
    ) -> AsyncIterator[tuple[httpx.Response, str]]:
        host = urlsplit(self._endpoint).netloc
        timeout = httpx.Timeout(self._stall_s, connect=min(10.0, self._stall_s))
        client = httpx.AsyncClient(
            headers=self._headers,
            timeout=timeout,
            verify=_authorities(),
            follow_redirects=True,
            max_redirects=5,
        )
        async with client:
            try:
                async with client.stream("GET", self._endpoint + path, headers=headers) as response:
                    host = response.url.netloc.decode()
                    _check(response.status_code, model, host)
                    yield response, host
            except httpx.TimeoutException:
                raise _silent(host, self._stall_s) from None
            except httpx.HTTPError as error:
                raise _lost(host, error) from None


@cache
def _authorities() -> ssl.SSLContext:
    """Whom to trust; reading them takes longer than many a request."""
    return httpx.create_ssl_context()


def _check(status: int, model: str, host: str) -> None:
    if status in (200, 206):
        return
    if status in (401, 403):
        raise ModelMissing(
            f"{host} does not give {model} to everybody, or does not have it",
            do="check the id; accept its terms there and name a token in hub.token_file",
        )
    if status == 404:
        raise ModelMissing(f"{host} has no {model} of this revision", do="check id and revision")
    if status in (*RETRIED, 416):
        raise HubUnreachable(f"{host} answers {status}")
    raise ModelMissing(f"{host} answers {status} for {model}", do="check hub.endpoint")


def _silent(host: str, stall_s: float) -> HubUnreachable:
    return HubUnreachable(f"no byte for {stall_s:g} s from {host}")


def _lost(host: str, error: Exception) -> HubUnreachable:
    return HubUnreachable(f"the connection to {host} failed: {error or type(error).__name__}")


@asynccontextmanager
async def _chunks(
    response: httpx.Response, host: str, stall_s: float
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it comes; whoever leaves before its end hangs up."""
    raw = response.aiter_raw()
    try:
        async with aclosing(_told(raw, host, stall_s)) as chunks:
            yield chunks
    finally:
        await _unwind(response, raw)


async def _told(
    raw: AsyncIterator[bytes], host: str, stall_s: float
) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in raw:
            yield chunk
    except httpx.TimeoutException:
        raise _silent(host, stall_s) from None
    except httpx.HTTPError as error:
        raise _lost(host, error) from None


async def _unwind(response: httpx.Response, raw: AsyncIterator[bytes]) -> None:
    """Have the generators below end now: httpcore leaves that to the collector."""
    with trio.CancelScope(shield=True):
        await response.extensions["network_stream"].aclose()
    with suppress(httpx.HTTPError, httpx.StreamError):
        async for _ in raw:
            pass


async def _whole(response: httpx.Response, host: str, stall_s: float) -> bytes:
    body = bytearray()
    async with _chunks(response, host, stall_s) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > LISTING_CAP:
                raise ModelMissing(f"{host} lists more than {LISTING_CAP} bytes of files")
    return bytes(body)


def _file(sibling: _Sibling) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    if sibling.size is None or not (sha256 or sibling.blobId):
        raise ValueError(f"it tells neither size nor hash of {sibling.rfilename}")
    return RemoteFile(sibling.rfilename, sibling.size, sha256, sibling.blobId)


def _one_copy(files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """Without the second copy of the weights that some keep in the form of their own library."""
    own = tuple(file for file in files if not file.name.startswith("consolidated"))
    return own if any(file.name.endswith(".safetensors") for file in own) else files
