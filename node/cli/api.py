"""Asks the running node over its own HTTP API, with the key that `r3mes init` left.

By http.client, imported late, and not httpx: a command that shows three lines should not import
for 0.2 s.
"""

from __future__ import annotations

import json
from typing import Any

from r3mes.config.schema import Config
from r3mes.config.secrets import is_there, read_secret
from r3mes.errors import REGISTRY, ConfigError, NodeNotRunning, R3mesError
from r3mes.node.running import read_running

TIMEOUT_S = 10.0
MAX_BYTES = 8 * 1024 * 1024


def api_key(config: Config) -> str:
    """The key in ``api.key_file``.

    Raises:
        ConfigError: there is none yet, or it is unusable.
    """
    if not is_there(config.api.key_file):
        raise ConfigError(f"there is no API key in {config.api.key_file}", do="run `r3mes init`")
    return read_secret(config.api.key_file)


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
    status, content = _fetch(config, path, {"authorization": f"Bearer {api_key(config)}"})
    if status >= 400:
        raise told(content.get("error", {}))
    return content


def readiness(config: Config) -> dict[str, Any]:
    """Whether the node can answer requests now: ``ready`` and ``reasons``; needs no key.

    Raises:
        NodeNotRunning: nobody listens, or something else does.
    """
    _, content = _fetch(config, "/readyz", {})
    if not isinstance(content, dict) or "ready" not in content:
        raise not_running(config)
    return content


def _fetch(config: Config, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(api_address(config), timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read(MAX_BYTES))
    except (OSError, HTTPException, ValueError) as error:
        raise not_running(config) from error
    finally:
        connection.close()


def not_running(config: Config) -> NodeNotRunning:
    """The error for an API that does not answer."""
    return NodeNotRunning(f"nothing answers at http://{api_address(config)}, the API of the node")


def told(error: dict[str, Any]) -> R3mesError:
    """The error in the answer of a node, as it was raised there."""
    kind = REGISTRY.get(str(error.get("code")), R3mesError)
    text = str(error.get("message", "")).removeprefix(f"{kind.kind.id}: ").rstrip(".")
    detail, _, do = text.rpartition(". ")
    return kind(detail or text, do=do if detail else None, param=error.get("param"))
