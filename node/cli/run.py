"""`r3mes run`: the node itself, until Ctrl-C."""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r3mes.config.load import served_name
from r3mes.config.schema import Config
from r3mes.config.secrets import is_there
from r3mes.config.sources import flag_settings
from r3mes.errors import ConfigError, WalletError
from r3mes.node.cli import passphrase
from r3mes.node.cli.init import home
from r3mes.node.cli.output import say, show
from r3mes.node.cli.session import session

if TYPE_CHECKING:
    from r3mes.chain.keys.wallet import Wallet
    from r3mes.node.reload import Reload
    from r3mes.node.running import Running
    from r3mes.node.vault import Vault
    from r3mes.p2p.identity import NodeKey

QUESTION = "What is a receipt?"


def run(
    context: typer.Context,
    listen: Annotated[str | None, typer.Option(help="Address of the API.")] = None,
    p2p_listen: Annotated[list[str] | None, typer.Option(help="Address for peers.")] = None,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddress of a peer.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model to serve.")] = None,
    log_level: Annotated[str | None, typer.Option(help="Least severity to log.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key.")
    ] = None,
) -> None:
    """Run the node; Ctrl-C drains it."""
    from r3mes.node.clock import now_ms
    from r3mes.node.reload import Reload

    flags: dict[str, object] = {
        "api.listen": listen,
        "p2p.listen": p2p_listen,
        "p2p.bootstrap": bootstrap,
        "models": [{"id": each} for each in model] if model else None,
        "log.level": log_level,
        **flag_settings(setting or ()),
    }
    current = session(context, own=True)
    reload = Reload(current.load(flags), partial(current.load, flags), now_ms=now_ms)
    options = (("--datadir", current.datadir), ("--config", current.config))
    given = [f" {option} {quoted(path)}" for option, path in options if path]
    raise typer.Exit(_run(reload, program(Path(sys.argv[0])) + "".join(given)))


def _run(reload: Reload, command: str) -> int:
    """Run the daemon in this process; its exit status."""
    config = reload.config

    from r3mes.node.audit import keep_audit_log
    from r3mes.node.logs import set_up

    set_up(config.log)
    keep_audit_log(config.node.datadir)
    key, vault = _identity(config)

    from r3mes.node.app import run_node

    def on_ready(running: Running) -> None:
        show(banner(running, config, command))
        if not vault.is_open:
            say(f"The wallet is locked: no request is answered.   next: {command} wallet unlock")

    return run_node(reload, key, vault, on_ready)


def _identity(config: Config) -> tuple[NodeKey, Vault]:
    """The node key and the wallet, before anything is started.

    The wallet is opened, unless there is neither a passphrase nor anybody to ask for it.
    """
    from r3mes.actors.store.datadir import locked
    from r3mes.node.vault import Vault
    from r3mes.p2p.identity import NodeKey

    wallet_file = config.node.datadir / "wallets" / f"{config.wallet.name}.json"
    key_file = config.node.datadir / "keys" / "node.key"
    if not (is_there(wallet_file) and is_there(key_file)):
        raise ConfigError(f"{config.node.datadir} holds no node yet", do="run `r3mes init`")
    with locked(config.node.datadir):
        pass  # a second node hears it before anything is asked or noted; the store locks for good
    secret = passphrase.stored(config)
    if secret is None and passphrase.is_terminal():
        secret = passphrase.existing(None)
    wallet = None if secret is None else _open(wallet_file, secret)
    return NodeKey.load_or_create(key_file), Vault(wallet_file, wallet)


def _open(wallet_file: Path, secret: str) -> Wallet:
    from r3mes.chain.keys.keystore import open_keystore
    from r3mes.node.audit import audit

    try:
        wallet = open_keystore(wallet_file, secret)
    except WalletError as error:
        audit("wallet_unlock_failed", wallet=wallet_file.stem, why=error.kind.code)
        raise
    audit("wallet_opened", wallet=wallet.address)
    return wallet


def banner(running: Running, config: Config, command: str) -> str:
    """What a node says when it is up: who, where, and how to ask it (``command`` finds it)."""
    from importlib.metadata import version

    models = [served_name(model) for model in config.models]
    name = f"R3MES {version('r3mes')}   peer {running.peer_id}   network {config.node.chain_id}"
    return "\n".join(
        [
            name,
            *(f" p2p      {address}" for address in running.p2p),
            f" api      http://{running.api}/v1       key file: {home(config.api.key_file)}",
            f" models   {', '.join(models) or f'none of its own; `{command} models` lists others'}",
            " logs     here, on stderr; under systemd: journalctl -u r3mes",
            f"ask it:   {curl(running.api, config.api.key_file, models[0] if models else 'MODEL')}",
            f'or:       {command} chat "{QUESTION}"',
            "Ctrl-C drains, twice stops at once.",
        ]
    )


def curl(api: str, key_file: Path, model: str) -> str:
    """A request that can be pasted into a shell; the key stays in its file."""
    import json

    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    return " \\\n            ".join(
        [
            f'curl -H "Authorization: Bearer $(cat {quoted(key_file)})"',
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}",
            f"http://{api}/v1/chat/completions",
        ]
    )


def program(called: Path) -> str:
    """This program for a shell: by its name, unless only its path (``called``) finds it."""
    if called.name != "r3mes":
        return "r3mes"
    found = shutil.which("r3mes")
    return "r3mes" if found and Path(found).samefile(called) else quoted(called)


def quoted(path: Path) -> str:
    """``path`` for a shell, with ``~`` where that needs no quotes."""
    plain = shlex.quote(str(path)) == str(path)
    return home(path) if plain else shlex.quote(str(path))
