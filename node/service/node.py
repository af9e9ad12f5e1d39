"""The node of a service: made new, or taken over from the data directory of a user.

It is put together in a folder that only root can look into, then given to the account and moved
into place: a service never finds half of one, and nobody can slip root a link meanwhile.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from r3mes.actors.store.datadir import DATABASE, LOCK, locked
from r3mes.config.load import load
from r3mes.config.schema import Config
from r3mes.config.secrets import is_there, read_secret, write_secret
from r3mes.errors import ServiceError, ServiceHasNode
from r3mes.node.cli.passphrase import (
    CREDENTIAL,
    generate,
    passphrase_beside,
    stored_passphrase_file,
)
from r3mes.node.running import FILE as RUNNING
from r3mes.node.service.places import API_KEY, Places
from r3mes.node.service.steps import run

LEFT = {LOCK, RUNNING, "config.toml", "admin.sock"}
"""What is not copied: it is of the process that used it, or has a place of its own."""


@dataclass(frozen=True, slots=True)
class MakeNode:
    """A new node for the service, whose wallet it can open by itself."""

    places: Places

    def would(self) -> str:
        made = f"make a node in {self.places.data}: node key, wallet, API key"
        return f"{made}\n{_would_seal(self.places)}"

    def do(self) -> str:
        return _put_in_place(self.places, self._fill)

    def _fill(self, draft: Path) -> None:
        from r3mes.node.cli.init import create_node

        config = drafted(self.places, draft)
        passphrase = passphrase_beside(config)
        generate(passphrase)
        create_node(config, passphrase, _say_nothing)


@dataclass(frozen=True, slots=True)
class CopyNode:
    """The node of a user for the service.

    Args:
        source: the data directory of the user.
        config: the configuration that the node had there.
    """

    places: Places
    source: Path
    config: Config

    def would(self) -> str:
        copied = f"copy the node in {self.source} to {self.places.data}, and its API key"
        return f"{copied}\n{_would_seal(self.places)}"

    def do(self) -> str:
        if not is_there(self.source / "keys" / "node.key") or not is_there(self.source / DATABASE):
            raise ServiceError(f"{self.source} holds no node", do="name a node's data directory")
        with locked(self.source):
            return _put_in_place(self.places, self._fill)

    def _fill(self, draft: Path) -> None:
        shutil.copytree(
            self.source,
            draft,
            symlinks=True,
            dirs_exist_ok=True,
            ignore=lambda folder, _: LEFT if Path(folder) == self.source else (),
        )
        beside = passphrase_beside(drafted(self.places, draft))
        secrets = {draft / API_KEY: self.config.api.key_file,
                   beside: stored_passphrase_file(self.config)}  # fmt: skip
        for place, secret in secrets.items():
            if secret is not None and is_there(secret) and not place.exists():
                write_secret(place, read_secret(secret))


def drafted(places: Places, draft: Path) -> Config:
    """The service's configuration for a node that is still in ``draft``."""
    flags = {"node.datadir": str(draft), "api.key_file": str(draft / API_KEY)}
    return load(file=places.config, env={}, flags=flags).config


def has_node(places: Places) -> bool:
    """Whether the service has one.

    Raises:
        ServiceHasNode: there is something, but no whole node.
    """
    if is_there(places.node_key):
        return True
    if is_there(places.data) and any(places.data.iterdir()):
        raise ServiceHasNode(
            f"{places.data} is not empty and holds no node",
            do=f"look into it, then run `sudo mv {places.data} {places.data}.old`",
        )
    return False


def _put_in_place(places: Places, fill: Callable[[Path], None]) -> str:
    account = places.account()
    with _draft(places.data.with_name(f".{places.data.name}.new")) as draft:
        fill(draft)
        told = _seal(places, draft)
        _give(draft, account)
        draft.rename(places.data)
    return f"Made     the node in {places.data}\n{told}"


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    except OSError as error:
        raise ServiceError(f"the node of the service cannot be made: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give(draft: Path, account: tuple[int, int]) -> None:
    """All of it to the account alone; links could lead the service anywhere."""
    for path in (draft, *draft.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ServiceError(
                f"{path.relative_to(draft)} in the data directory is a link or no regular file",
                do="put what it leads to in its place",
            )
        path.chmod(0o700 if stat.S_ISDIR(mode) else 0o600)
        os.chown(path, *account)


def _seal(places: Places, draft: Path) -> str:
    """Hand the passphrase of the wallet to systemd, if it can take it; what became of it."""
    path = passphrase_beside(drafted(places, draft))
    if not path.exists():
        return "The wallet starts locked: `r3mes wallet unlock` opens it."
    if not _can_seal(places):
        return f"Kept     its wallet's passphrase in {places.data / path.relative_to(draft)} (0600)"
    file = places.credential
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    run([*SEAL, "-", str(new)], secret=read_secret(path))
    new.chmod(0o600)
    if file.exists():  # of a node that was here before: without it nothing opens that one's wallet
        file.rename(f"{file}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    new.rename(file)
    path.unlink()
    return f"Sealed   its wallet's passphrase in {file}, for this machine alone"


SEAL = ("systemd-creds", "encrypt", f"--name={CREDENTIAL}")


def _would_seal(places: Places) -> str:
    if not _can_seal(places):
        return "leave the passphrase of its wallet beside it (0600)"
    return f"seal the passphrase of its wallet: run {' '.join(SEAL)} - {places.credential}"


def _can_seal(places: Places) -> bool:
    """Only for this machine: what it seals can be opened on no other."""
    return places.live and shutil.which(SEAL[0]) is not None


def _say_nothing(text: str, *, created: bool) -> None:
    """What is made has another place in the end."""
