"""`r3mes wallet`: the accounts in the data directory. Words are shown on a terminal, once."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r3mes.config.schema import Config
from r3mes.errors import BadRequest, MnemonicInvalid, PassphraseMissing, WalletMissing
from r3mes.node.cli import completion, passphrase
from r3mes.node.cli.api import call
from r3mes.node.cli.everywhere import Command
from r3mes.node.cli.output import say, show, show_json, table
from r3mes.node.cli.session import session
from r3mes.node.paper import record_backup
from r3mes.node.wallets import wallet_shown, wallets_shown

if TYPE_CHECKING:
    from r3mes.chain.keys.wallet import Wallet

app = typer.Typer(help="List, create, import, back up and unlock wallets.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Take the passphrase from this file instead of the terminal.")
]
Name = Annotated[
    str | None,
    typer.Argument(help="The node's own wallet if left out.", autocompletion=completion.wallet),
]
ASKED = 3
"""Words that must be typed from the paper."""
CLEAR = "\x1b[2J\x1b[3J\x1b[H"
"""Clears a terminal and what it remembers of earlier lines."""


@app.command("list")
def list_wallets(context: typer.Context, json: Json = False) -> None:
    """List the wallets of the data directory."""
    config = session(context).load().config
    found = wallets_shown(config)
    if json:
        show_json([asdict(one) for one in found])
    else:
        rows = [(one.name, one.address, _yes(one.backed_up)) for one in found]
        show(table(("NAME", "ADDRESS", "BACKED UP"), rows))


@app.command("show")
def show_wallet(context: typer.Context, name: Name = None, json: Json = False) -> None:
    """Show a wallet's address."""
    config = session(context).load().config
    wallet = wallet_shown(config, _path(config, name or config.wallet.name).stem)
    if json:
        show_json(asdict(wallet))
    else:
        show(f"{wallet.name}  {wallet.address}  backed up: {_yes(wallet.backed_up)}")


@app.command()
def create(context: typer.Context, name: str, passphrase_file: PassphraseFile = None) -> None:
    """Create a wallet of 24 new words; back it up afterwards."""
    from r3mes.chain.keys.wallet import Wallet

    config = session(context).load().config
    _store(config, name, Wallet.create(), passphrase_file)
    say(f"Not backed up yet.   next: r3mes wallet backup {name}")


@app.command("import")
def import_wallet(
    context: typer.Context,
    name: str,
    words_file: Annotated[
        Path | None, typer.Option(help="Take the words from this file instead of the terminal.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    coin_type: Annotated[int, typer.Option(help="118, or 9999 for the chain's own.")] = 118,
) -> None:
    """Restore a wallet from its words."""
    from r3mes.chain.keys.wallet import Wallet

    config = session(context).load().config
    _store(config, name, Wallet(_words(words_file), coin_type=coin_type), passphrase_file)
    record_backup(config, name)  # whoever has typed the words has them


@app.command()
def backup(
    context: typer.Context,
    name: Name = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show a wallet's words once, to be written on paper, and check some of them."""
    from r3mes.chain.keys.keystore import open_keystore
    from r3mes.node.audit import audit, keep_audit_log

    config = session(context).load().config
    name = name or config.wallet.name
    path = _path(config, name)
    if not path.exists():
        raise WalletMissing(f"there is no wallet {name!r} in {_folder(config)}")
    if not passphrase.is_terminal():
        raise PassphraseMissing(
            "words are only shown on a terminal", do="run `r3mes wallet backup` in a terminal"
        )
    stored = passphrase.stored_passphrase_file(config) if name == config.wallet.name else None
    secret = passphrase.existing(passphrase_file or stored)
    wallet = open_keystore(path, secret)
    keep_audit_log(config.node.datadir)
    audit("wallet_words_shown", wallet=wallet.address)
    _show_words(wallet.reveal_words().split())
    show(f"Backup recorded {record_backup(config, name)}.")


@app.command()
def unlock(
    context: typer.Context,
    passphrase_file: PassphraseFile = None,
    seconds: Annotated[
        float | None, typer.Option(help="Lock it again after so many.", min=1)
    ] = None,
) -> None:
    """Open the running node's wallet, so that it answers requests."""
    config = session(context).to_ask()
    secret = passphrase.existing(passphrase_file)
    found = call(config, "wallet_unlock", socket_only=True, passphrase=secret, ttl_s=seconds)
    show(f"{found['address']} is open.   next: r3mes status")


@app.command(cls=Command)
def lock(context: typer.Context) -> None:
    """Lock the running node's wallet; no request is answered until it is opened again."""
    found = call(session(context).to_ask(), "wallet_lock", socket_only=True)
    show(f"{found['address']} is locked.   to open it: r3mes wallet unlock")


def _store(config: Config, name: str, wallet: Wallet, passphrase_file: Path | None) -> None:
    from r3mes.chain.keys.keystore import create_keystore

    path = _path(config, name)
    secret = passphrase.new(passphrase_file)
    if secret is None:
        raise PassphraseMissing("no file with the passphrase was named, and this is no terminal")
    create_keystore(path, wallet, secret)
    show(f"Created  {path} (argon2id + xchacha20)   address {wallet.address}")


def _words(file: Path | None) -> str:
    from r3mes.config.secrets import read_secret

    if file is not None:
        return read_secret(file)
    if not passphrase.is_terminal():
        raise MnemonicInvalid("no file with the words was named, and this is no terminal",
                              do="name one with --words-file")  # fmt: skip
    return str(typer.prompt("The words, with spaces between them", hide_input=True, err=True))


def _show_words(words: Sequence[str]) -> None:
    say(f"Write these {len(words)} words on paper. They are shown once, and not logged.")
    typer.prompt("Press Enter to show them", default="", show_default=False, err=True)
    lines = [f"{at:2}. {word}" for at, word in enumerate(words, 1)]
    typer.echo("\n".join("".join(f"{word:<16}" for word in lines[i : i + 4])
                         for i in range(0, len(lines), 4)), err=True)  # fmt: skip
    typer.prompt("Press Enter when they are on paper", default="", show_default=False, err=True)
    sys.stderr.write(CLEAR)
    asked = sorted(random.SystemRandom().sample(range(len(words)), ASKED))
    which = ", ".join(str(at + 1) for at in asked)
    typed = str(typer.prompt(f"Type words {which} to confirm", err=True)).lower().split()
    if typed != [words[at] for at in asked]:
        raise MnemonicInvalid("these are not the words that were asked for",
                              do="run it again and check what is on the paper")  # fmt: skip


def _path(config: Config, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise BadRequest(f"{name!r} cannot be a wallet's name", do="use letters, digits, _ and -")
    return _folder(config) / f"{name}.json"


def _folder(config: Config) -> Path:
    return config.node.datadir / "wallets"


def _yes(flag: object) -> str:
    return "yes" if flag else "no"
