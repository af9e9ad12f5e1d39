"""Asks the running node: by its admin socket, else by its HTTP API with the key of `r3mes init`.

By http.client, imported late, and not httpx: a command that shows three lines should not import
for 0.2 s.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from r3mes.config.paths import SYSTEM_DATA
from r3mes.config.schema import Config
from r3mes.config.secrets import is_there, read_secret
from r3mes.errors import REGISTRY, ConfigError, Forbidden, NodeNotRunning, R3mesError
from r3mes.node.running import read_running

TIMEOUT_S = 10.0
MAX_BYTES = 64 * 1024 * 1024
"""Most of an answer: all that the node keeps of its log is up to 16 MiB of text, before JSON."""


def api_key(config: Config) -> str:
    """The key in ``api.key_file``, to be sent to `api_address` now.

    Raises:
        ConfigError: there is none yet, or it is unusable.
        Forbidden: it is for others, and so is the admin socket.
        NodeNotRunning: whoever may listen there is not the node of this data directory, which
            would have said so; the key is not for strangers.
    """
    if key_is_closed(config):
        raise _no_socket(config)
    if not is_there(config.api.key_file):
        raise ConfigError(f"there is no API key in {config.api.key_file}", do="run `r3mes init`")
    datadir = config.node.datadir
    if read_running(datadir) is None and os.access(datadir, os.R_OK | os.X_OK):
        raise not_running(config)
    return read_secret(config.api.key_file)


def key_is_closed(config: Config) -> bool:
    """Whether the key is where this user may not look, as that of a service is."""
    return _closed(config.api.key_file.parent)


def api_address(config: Config) -> str:
    """Where the node's API can be reached from this machine, ``host:port``."""
    running = read_running(config.node.datadir)
    host, _, port = (running.api if running else config.api.listen).rpartition(":")
    everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  as the place to call
    return f"{everywhere.get(host, host)}:{port}"


def get(config: Config, path: str) -> Any:
    """The JSON that the node answers to GET ``path``.

    Raises:
        NodeNotRunning: nobody listens, or something else does.
        R3mesError: what the node answers instead.
    """
    status, content = _exchange(config, "GET", path)
    if status >= 400:
        raise told(content.get("error", {}))
    return content


def call(
    config: Config,
    method: str,
    *,
    patience_s: float = 0.0,
    socket_only: bool = False,
    **params: object,
) -> Any:
    """The result of a JSON-RPC method of the running node, which may take ``patience_s`` more.

    What is secret in ``params`` asks for ``socket_only``: then nothing is sent over TCP.

    Raises:
        NodeNotRunning: nobody listens, or something else does.
        R3mesError: what the node answers instead.
    """
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    timeout = TIMEOUT_S + patience_s
    body = json.dumps(message)
    _, content = _exchange(config, "POST", "/rpc", body, timeout=timeout, socket_only=socket_only)
    if "result" in content:
        return content["result"]
    error = content.get("error", {})
    if not isinstance(data := error.get("data"), dict):
        raise not_running(config)
    kind = REGISTRY.get(str(data.get("code")), R3mesError)
    raise kind(str(error.get("message", "")), do=data.get("do"), param=data.get("param"))


def readiness(config: Config) -> dict[str, Any]:
    """Whether the node can answer requests now: ``ready`` and ``reasons``; needs no key.

    Raises:
        NodeNotRunning: nobody listens, or something else does.
    """
    _, content = _exchange(config, "GET", "/readyz", with_key=False)
    if "ready" not in content:
        raise not_running(config)
    return content


def admin_socket(config: Config) -> Path:
    """Where the node's admin socket is."""
    running = read_running(config.node.datadir)
    if running is not None and running.admin:
        return Path(running.admin)
    return config.api.admin_socket or config.node.datadir / "admin.sock"


def _exchange(
    config: Config,
    verb: str,
    path: str,
    body: str | None = None,
    *,
    with_key: bool = True,
    socket_only: bool = False,
    timeout: float = TIMEOUT_S,
) -> tuple[int, dict[str, Any]]:
    """The status and the JSON object of one answer."""
    from http.client import HTTPConnection, HTTPException

    from r3mes.node.cli.line import admin_line

    headers = {"content-type": "application/json"} if body else {}
    connection: HTTPConnection | None = admin_line(admin_socket(config), timeout)
    if connection is None and socket_only:
        raise _no_socket(config)
    if connection is None:
        connection = HTTPConnection(api_address(config), timeout=timeout)
        headers |= {"authorization": f"Bearer {api_key(config)}"} if with_key else {}
    try:
        connection.request(verb, path, body, headers)
        response = connection.getresponse()
        content = json.loads(response.read(MAX_BYTES))
    except TimeoutError as error:
        raise _silent(config, timeout) from error
    except (OSError, HTTPException, ValueError) as error:
        raise not_running(config) from error
    finally:
        connection.close()
    if not isinstance(content, dict):
        raise not_running(config)
    return response.status, content


def _no_socket(config: Config) -> R3mesError:
    folder = admin_socket(config).parent
    if read_running(config.node.datadir) is None and not _closed(folder):
        return not_running(config)
    return Forbidden(
        f"this user cannot open {admin_socket(config)}",
        do="run it as the user of the node, or as one of its group",
    )


def _closed(folder: Path) -> bool:
    return os.path.exists(folder) and not os.access(folder, os.X_OK)


def not_running(config: Config) -> NodeNotRunning:
    """The error for an API that does not answer."""
    service = config.node.datadir == SYSTEM_DATA
    return NodeNotRunning(
        f"nothing answers at http://{api_address(config)}, the API of the node",
        do="start it with `sudo systemctl start r3mes`" if service else None,
    )


def _silent(config: Config, timeout: float) -> NodeNotRunning:
    """The error for a node that takes connections and says nothing: it hangs, or is stopped."""
    running = read_running(config.node.datadir)
    if running is None:
        return not_running(config)
    return NodeNotRunning(
        f"the node (pid {running.pid}) did not answer in {timeout:g} s",
        do="see its last words where its stderr goes; if it stays so, end it and start it again",
    )


def told(error: dict[str, Any]) -> R3mesError:
    """The error in the answer of a node, as it was raised there."""
    kind = REGISTRY.get(str(error.get("code")), R3mesError)
    text = str(error.get("message", "")).removeprefix(f"{kind.kind.id}: ").rstrip(".")
    detail, _, do = text.rpartition(". ")
    return kind(detail or text, do=do if detail else None, param=error.get("param"))
