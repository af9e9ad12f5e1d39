"""What the shell offers after Tab: names from the running node, or from the data directory.

A node that does not run, or a configuration that is wrong, offers nothing and says nothing: a
message would end up in the command that is being typed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from r3mes.config.keys import TABLES
from r3mes.config.load import all_keys
from r3mes.config.schema import Config
from r3mes.errors import R3mesError
from r3mes.node.cli.api import call, get
from r3mes.node.cli.session import session


def any_model(context: typer.Context, incomplete: str) -> list[str]:
    """Models that can be asked, here or at peers."""
    return _offer(context, incomplete, _any_model)


def own_model(context: typer.Context, incomplete: str) -> list[str]:
    """Models of this node."""
    return _offer(context, incomplete, lambda config: [m["id"] for m in call(config, "model_ps")])


def own_adapter(context: typer.Context, incomplete: str) -> list[str]:
    """Adapters of this node's models."""
    return _offer(
        context, incomplete, lambda config: [a["id"] for a in call(config, "model_adapters")]
    )


def peer(context: typer.Context, incomplete: str) -> list[str]:
    """Connected peers."""
    return _offer(
        context, incomplete, lambda config: [p["peer_id"] for p in call(config, "net_peers")]
    )


def banned(context: typer.Context, incomplete: str) -> list[str]:
    """Peers that are banned."""
    return _offer(
        context, incomplete, lambda config: [b["peer_id"] for b in call(config, "net_bans")]
    )


def key(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of API keys."""
    return _offer(context, incomplete, lambda config: [k["id"] for k in call(config, "key_list")])


def wallet(context: typer.Context, incomplete: str) -> list[str]:
    """Wallets in the data directory."""
    return _offer(context, incomplete, _wallets)


def config_key(context: typer.Context, incomplete: str) -> list[str]:
    """Dotted keys of the configuration."""
    return [name for name in (*all_keys(), *TABLES) if name.startswith(incomplete)]


def _any_model(config: Config) -> list[str]:
    return sorted({model["id"] for model in get(config, "/v1/models")["data"]})


def _wallets(config: Config) -> list[str]:
    return sorted(path.stem for path in (config.node.datadir / "wallets").glob("*.json"))


def _offer(
    context: typer.Context, incomplete: str, names: Callable[[Config], Iterable[str]]
) -> list[str]:
    try:
        found = names(session(context).load().config)
    except R3mesError:
        return []
    return [name for name in found if name.startswith(incomplete)]
