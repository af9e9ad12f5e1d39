"""`r3mes backup`: what a node cannot make anew, in one file: made online, checked, put back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r3mes.config.schema import Config
from r3mes.config.secrets import is_there
from r3mes.errors import ConfigError, PassphraseMissing
from r3mes.node.cli import passphrase
from r3mes.node.cli.init import home
from r3mes.node.cli.output import duration, say, show, show_json
from r3mes.node.cli.session import session

if TYPE_CHECKING:
    from r3mes.node.backup.manifest import Manifest
    from r3mes.node.backup.restore import Restored

app = typer.Typer(help="Back up the node, also while it runs; check and restore.")

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Take the backup's passphrase from this file.")
]
File = Annotated[Path, typer.Argument(help="A file that `r3mes backup create` made.")]


@app.command()
def create(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="Where to; in the data directory's backups if left out.")
    ] = None,
    with_passphrases: Annotated[
        bool, typer.Option("--with-passphrases", help="Include the files that open the wallets.")
    ] = False,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Seal it with a passphrase of its own.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Write database, wallets, node key and configuration into one new file."""
    from r3mes.node.audit import keep_audit_log
    from r3mes.node.backup.create import create_backup

    loaded = session(context).load()
    config = loaded.config
    keep_audit_log(config.node.datadir)
    secret = _new_passphrase(passphrase_file) if encrypt or passphrase_file else None
    made = create_backup(
        config, loaded.file, file, passphrases=with_passphrases, sealed_with=secret
    )
    if json:
        show_json({"file": str(made.file), "bytes": made.size, **_facts(made.manifest)})
        return
    show(f"Wrote    {home(made.file)} (0600, {made.size} bytes)   {_contents(made.manifest)}")
    if secret is None:
        say("It holds this node's key: keep it as secret as the node, or make one with --encrypt.")
    _tell_of_passphrase(config, made.manifest)
    show(f"next: copy it to another machine, then there: r3mes backup verify {made.file.name}")


@app.command()
def verify(
    context: typer.Context, file: File, passphrase_file: PassphraseFile = None, json: Json = False
) -> None:
    """See that a backup is whole, unchanged and complete; changes nothing."""
    from tempfile import TemporaryDirectory

    from r3mes.node.backup.verify import unpack

    with TemporaryDirectory(prefix="r3mes-verify-") as scratch:
        manifest = unpack(file, Path(scratch), _passphrase(file, passphrase_file))
    if json:
        show_json({"file": str(file), "whole": True, **_facts(manifest)})
        return
    age = duration(max(0.0, time.time() - manifest.made_at))
    show(f"ok  {home(file)}   {_contents(manifest)}   made {age} ago by r3mes {manifest.program}")


@app.command()
def restore(
    context: typer.Context,
    file: File,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Put a backup in place; the node must be stopped, and what was there is kept beside."""
    from r3mes.node.audit import keep_audit_log
    from r3mes.node.backup.restore import restore_backup

    current = session(context)
    datadir = _datadir(context)
    keep_audit_log(datadir)
    secret = _passphrase(file, passphrase_file)
    done = restore_backup(file, datadir, current.file, passphrase=secret, dry_run=dry_run)
    if json:
        show_json(_restored(done, dry_run=dry_run))
        return
    verb = "Would restore" if dry_run else "Restored"
    show("\n".join(f"{verb}  {home(path)}" for path in done.put))
    verb = "Would keep as" if dry_run else "Kept as"
    show("\n".join(f"{verb}  {home(path)}" for path in done.aside) or "Nothing was there before.")
    if not dry_run:
        _warn(context, done)


def _new_passphrase(file: Path | None) -> str:
    secret = passphrase.new(file, "the backup")
    if secret is None:
        raise PassphraseMissing(
            "there is nobody to ask for the backup's passphrase", do="name a --passphrase-file"
        )
    return secret


def _passphrase(file: Path, passphrase_file: Path | None) -> str | None:
    """That of a backup that is sealed; None for one that is not."""
    from r3mes.node.backup.sealing import is_sealed

    return passphrase.existing(passphrase_file) if is_sealed(file) else None


def _datadir(context: typer.Context) -> Path:
    """Where to; a configuration that is wrong must not be in the way of putting a right one."""
    current = session(context)
    try:
        return current.load_or_default().config.node.datadir
    except ConfigError:
        if current.datadir is None:
            raise
        return current.datadir


def _warn(context: typer.Context, done: Restored) -> None:
    say(f"This machine is now the node {done.manifest.peer_id}. Two nodes with one key take each")
    say("other's connections: never start the old one again. Receipts since then are not in it.")
    config = session(context).load().config
    if config.node.datadir not in done.put[-1].parents:
        say(f"! The configuration keeps its data in {config.node.datadir}, and not where this was "
            "restored to.")  # fmt: skip
    _tell_of_passphrase(config, done.manifest)
    show("next: r3mes init   (makes what is missing, such as an API key)   then: r3mes run")


def _tell_of_passphrase(config: Config, manifest: Manifest) -> None:
    """Where the passphrase is, unless it is in the backup and used from there."""
    beside = passphrase.passphrase_beside(config)
    file = config.wallet.passphrase_file or beside
    if file == beside and f"wallets/{beside.name}" in manifest.names():
        return
    if is_there(file):
        where = f"keep {home(file)} in another place"
    else:
        where = "only those know it who typed it, or have its file"
    say(f"The passphrase of the wallet is not in it: {where}.")


def _contents(manifest: Manifest) -> str:
    wallets = sum(name.endswith(".json") for name in manifest.names())
    plural = "" if wallets == 1 else "s"
    return f"{len(manifest.files)} files, {wallets} wallet{plural}, schema {manifest.schema}"


def _facts(manifest: Manifest) -> dict[str, object]:
    return {
        "made_at": manifest.made_at,
        "program": manifest.program,
        "schema": manifest.schema,
        "peer_id": manifest.peer_id,
        "models": list(manifest.models),
        "files": sorted(manifest.names()),
    }


def _restored(done: Restored, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "put": [str(path) for path in done.put],
        "aside": [str(path) for path in done.aside],
        **_facts(done.manifest),
    }
