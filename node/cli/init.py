"""`r3mes init`: what a node needs before it can run. What is there already is left as it is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

import typer

from r3mes.config.paths import SYSTEM_DATA
from r3mes.config.schema import Config
from r3mes.config.secrets import write_secret
from r3mes.node.cli import passphrase
from r3mes.node.cli.output import say, show
from r3mes.node.cli.session import Session, session

TEMPLATE = """\
# Configuration of a R3MES node. docs/config.md lists every key; `r3mes config show --origin` says
# what is in force and why.  Serving models earns; without [[models]] the node only asks others.

[[models]]
id = "builtin"
"""


class Tell(Protocol):
    """Says what was created, or kept."""

    def __call__(self, text: str, *, created: bool) -> None: ...


def init(
    context: typer.Context,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Take the new wallet's passphrase from this file.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what was created.")] = False,
) -> None:
    """Create configuration, keys and wallet; overwrites nothing."""
    current = session(context, own=True)
    tell = partial(_tell, quiet=quiet)
    with _alone(current.file.parent):
        _config_file(current, tell)
        config = current.load_or_default().config
        create_node(config, passphrase_file, tell)
    if not quiet:
        show(_next_steps(config))


def create_node(config: Config, passphrase_file: Path | None, tell: Tell) -> None:
    """Make what is missing of keys and wallet."""
    config.node.datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _node_key(config, tell)
    _wallet(config, passphrase_file, tell)
    _api_key(config, tell)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One at a time: a second `r3mes init` waits, and then finds everything there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another `r3mes init` is at work here; waiting for it.")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _tell(text: str, *, quiet: bool, created: bool) -> None:
    if created or not quiet:
        (show if not quiet else say)(f"{'Created' if created else 'Kept   '}  {text}")


def _config_file(current: Session, tell: Tell) -> None:
    created = not current.file.exists()
    if created:
        with current.file.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    tell(home(current.file), created=created)


def _node_key(config: Config, tell: Tell) -> None:
    from r3mes.p2p.identity import NodeKey

    path = config.node.datadir / "keys" / "node.key"
    created = not path.exists()
    key = NodeKey.load_or_create(path)
    tell(f"{home(path)} (0600)   peer id {key.peer_id}", created=created)


def _wallet(config: Config, passphrase_file: Path | None, tell: Tell) -> None:
    from r3mes.chain.keys.keystore import create_keystore, read_address
    from r3mes.chain.keys.wallet import Wallet

    path = config.node.datadir / "wallets" / f"{config.wallet.name}.json"
    created = not path.exists()
    if created:
        secret = _new_passphrase(config, passphrase_file, tell)
        create_keystore(path, Wallet.create(), secret)
    what = "(argon2id + xchacha20)   address" if created else "  address"
    tell(f"{home(path)} {what} {read_address(path)}", created=created)


def _new_passphrase(config: Config, file: Path | None, tell: Tell) -> str:
    secret = passphrase.new(file or config.wallet.passphrase_file)
    if secret is not None:
        return secret
    beside = passphrase.passphrase_beside(config)
    secret = passphrase.generate(beside)
    tell(
        f"{home(beside)} (0600)   a generated passphrase, so that the node can start unattended.\n"
        "         Whoever can read both files has the wallet; keep larger amounts elsewhere.",
        created=True,
    )
    return secret


def _api_key(config: Config, tell: Tell) -> None:
    from r3mes.node.cli.keyring import ask_keyring

    path = config.api.key_file
    created = not path.exists()
    if created:
        made = ask_keyring(config, "key_create", name="default", scopes="ri")
        write_secret(path, made["secret"])
    tell(f'API key "default" (scopes: r i)  ->  {home(path)} (0600)', created=created)


def _next_steps(config: Config) -> str:
    from r3mes.node.paper import is_backed_up

    if is_backed_up(config, config.wallet.name):
        return "next: r3mes run"
    return "Your wallet is not backed up yet.   next: r3mes wallet backup   then: r3mes run"


def home(path: Path) -> str:
    """``path`` with ``~`` for the home directory, if that is a person's."""
    whose = Path.home()
    if whose != SYSTEM_DATA and path.is_relative_to(whose):
        return f"~/{path.relative_to(whose)}"
    return str(path)
