"""The files: configuration, data directory, secrets, wallet, store, backups."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from r3mes.actors.store import DATABASE
from r3mes.chain.keys.keystore import read_address
from r3mes.config.secrets import check_secret_file
from r3mes.errors import ConfigError, StoreError, WalletError, WalletMissing
from r3mes.node.backup.record import last_backup
from r3mes.node.doctor.finding import Finding, Subject, failed
from r3mes.node.paper import is_backed_up

DAY_S = 86400.0
OLD_DAYS = 7


def configuration(subject: Subject) -> Finding:
    """Whether it can be read, and means something."""
    if subject.wrong is not None:
        return failed("Configuration", subject.wrong)
    if not subject.file.exists():
        return Finding("Configuration", "info", f"no {subject.file}: defaults", "run `r3mes init`")
    return Finding("Configuration", "ok", str(subject.file))


def data_directory(subject: Subject) -> Finding:
    """Whether it is ours, and nobody else's."""
    name, path = "Data directory", subject.datadir
    if not path.exists():
        return Finding(name, "info", f"{path} is not there yet", "run `r3mes init`")
    found, me = path.stat(), os.geteuid()
    if not path.is_dir():
        return Finding(name, "fail", f"{path} is not a directory", "move that file away")
    if found.st_uid != me:
        what = f"{path} belongs to user {found.st_uid}, this is user {me}"
        return Finding(name, "fail", what, "run r3mes as its owner, or chown the directory")
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(name, "fail", f"{path} cannot be written", f"run chmod u+rwx {path}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        what = f"{path} has mode {mode:04o}: others can look into it"
        return Finding(name, "warn", what, f"run chmod 700 {path}")
    return Finding(name, "ok", f"{path}, mode {mode:04o}")


def secrets(subject: Subject) -> Finding:
    """Whether keys and wallets are readable for their owner alone."""
    name, files = "Secrets", sorted(set(secret_files(subject)))
    for path in files:
        try:
            check_secret_file(path)
        except ConfigError as error:
            return failed(name, error)
    if not files:
        return Finding(name, "info", "there are none yet", "run `r3mes init`")
    return Finding(name, "ok", f"{len(files)} files, readable for their owner alone")


def secret_files(subject: Subject) -> Iterator[Path]:
    """Every file of the node that holds a secret, of those that are there."""
    config, wallets = subject.config, subject.datadir / "wallets"
    yield from wallets.glob("*.json")
    yield from wallets.glob("*.passphrase")
    named = (subject.datadir / "keys" / "node.key", config.api.key_file)
    yield from (path for path in (*named, config.wallet.passphrase_file) if path and path.exists())


def wallet(subject: Subject) -> Finding:
    """Whether it can be read, and its words are on paper."""
    config = subject.config
    try:
        address = read_address(subject.datadir / "wallets" / f"{config.wallet.name}.json")
    except WalletMissing as error:
        return Finding("Wallet", "info", error.detail, "run `r3mes init`")
    except (ConfigError, WalletError) as error:
        return failed("Wallet", error)
    if not is_backed_up(config, config.wallet.name):
        what = f"{address}, and nobody has its words: a dead disk takes the money along"
        return Finding("Wallet", "warn", what, "run `r3mes wallet backup`")
    return Finding("Wallet", "ok", f"{address}, its words are backed up")


def store(subject: Subject) -> Finding:
    """Whether the database is whole."""
    from r3mes.actors.store.examine import examine

    path = subject.datadir / DATABASE
    if not path.exists():
        return Finding("Store", "info", "there is none yet", "run `r3mes init`")
    try:
        schema = examine(path)
    except StoreError as error:
        return failed("Store", error)
    return Finding("Store", "ok", f"{path.name} is whole, schema {schema}")


def backup(subject: Subject) -> Finding:
    """Whether there is a copy of the data that is not old."""
    if not (subject.datadir / DATABASE).exists():
        return Finding("Backup", "info", "there is nothing to back up yet")
    last = last_backup(subject.datadir)
    if last is None:
        return Finding("Backup", "warn", "there never was one", "run `r3mes backup create`")
    days = (time.time() - last) / DAY_S
    if days > OLD_DAYS:
        return Finding("Backup", "warn", f"{days:.0f} days old", "run `r3mes backup create`")
    return Finding("Backup", "ok", f"made {time.strftime('%Y-%m-%d', time.gmtime(last))}")
