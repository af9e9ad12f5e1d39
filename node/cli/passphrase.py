"""Where a passphrase comes from: a file or the terminal, never an argument or a variable."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import typer

from r3mes.config.schema import Config
from r3mes.config.secrets import read_credential, read_secret, write_secret
from r3mes.errors import PassphraseMissing
from r3mes.node.systemd import credential

SHORTEST = 8
CREDENTIAL = "wallet-passphrase"
"""What systemd calls it: ``LoadCredentialEncrypted=wallet-passphrase:…``."""


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def passphrase_beside(config: Config, name: str | None = None) -> Path:
    """Where `r3mes init` keeps a generated passphrase: next to the wallet."""
    return config.node.datadir / "wallets" / f"{name or config.wallet.name}.passphrase"


def stored_passphrase_file(config: Config) -> Path | None:
    """The file that opens the node's wallet: the one that is configured, or the one beside it."""
    if config.wallet.passphrase_file is not None:
        return config.wallet.passphrase_file
    beside = passphrase_beside(config)
    return beside if beside.exists() else None


def stored(config: Config) -> str | None:
    """The passphrase of the node's wallet that no person has to give; None if there is none.

    The configured file is first, then what systemd decrypted for the service, then the file beside
    the wallet.

    Raises:
        InsecureFile, ConfigError: the file cannot be used.
    """
    file = config.wallet.passphrase_file
    if file is None and (given := credential(CREDENTIAL)) is not None:
        return read_credential(given)
    file = file or stored_passphrase_file(config)
    return None if file is None else read_secret(file)


def existing(file: Path | None, stored: Path | None = None) -> str:
    """The passphrase of a wallet: from the file named, from the terminal, or from the stored file.

    Raises:
        PassphraseMissing: there is no file, and nobody to ask.
    """
    if file is not None:
        return read_secret(file)
    if is_terminal():
        return str(typer.prompt("Passphrase", hide_input=True, err=True))
    if stored is not None:
        return read_secret(stored)
    raise PassphraseMissing("no file with the passphrase was named, and this is no terminal")


def new(file: Path | None, what: str = "the new wallet") -> str | None:
    """The passphrase of something new; None when there is neither a file nor anybody to ask."""
    if file is not None:
        return read_secret(file)
    if not is_terminal():
        return None
    while True:
        typed = str(
            typer.prompt(
                f"Passphrase of {what}", hide_input=True, confirmation_prompt=True, err=True
            )
        )
        if len(typed) >= SHORTEST:
            return typed
        typer.echo(f"At least {SHORTEST} characters.", err=True)


def generate(path: Path) -> str:
    """A passphrase of 160 random bits, kept in ``path`` (0600) for unattended starts.

    One that is there already, from a start that was cut short, is used.
    """
    if path.exists():
        return read_secret(path)
    passphrase = secrets.token_urlsafe(20)
    write_secret(path, passphrase)
    return passphrase
