"""Backups: made beside a running node, refused when anything is wrong, put in place whole."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import pytest
import trio

from r3mes.actors.store import open_store
from r3mes.actors.store.examine import examine
from r3mes.config.secrets import write_secret
from r3mes.errors import BackupInvalid, StoreError
from r3mes.node.backup import disk, sealing
from r3mes.node.backup.manifest import entries_of
from r3mes.node.backup.record import last_backup
from r3mes.node.backup.restore import restore_backup

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli

Change: TypeAlias = Callable[[dict[str, Any], dict[str, bytes]], None]
PLACED = ("config.toml", "r3mes.sqlite3", "wallets/default.json", "keys/node.key")


@pytest.fixture
def node(cli: Cli) -> Cli:
    assert cli("init").code == 0
    return cli


@pytest.fixture
def backup(node: Cli, tmp_path: Path) -> Path:
    file = tmp_path / "backup.tar.gz"
    ran = node("backup", "create", str(file))
    assert ran.code == 0, ran.err
    return file


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def test_there_and_back(node: Cli, backup: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    before = content(node.datadir)
    assert node("backup", "verify", str(backup)).out.startswith("ok  ")
    for name in PLACED:
        (node.datadir / name).unlink()
    ran = node("backup", "restore", str(backup))
    assert ran.code == 0, ran.err
    assert ran.out.count("Restored") == len(PLACED)
    assert "never start the old one again" in ran.err
    after = content(node.datadir)
    assert {name: after[name] for name in PLACED if name != "r3mes.sqlite3"} == {
        name: before[name] for name in PLACED if name != "r3mes.sqlite3"
    }
    assert examine(node.datadir / "r3mes.sqlite3") > 0
    assert node("init").code == 0


def test_what_is_in_it(node: Cli, backup: Path) -> None:
    told = json.loads(node("backup", "verify", str(backup), "--json").out)
    assert told["files"] == sorted(PLACED)
    assert told["models"] == ["builtin"]
    secret = (node.datadir / "wallets" / "default.passphrase").read_text().strip()
    everything = gzip.decompress(backup.read_bytes())
    assert secret.encode() not in everything
    assert (node.datadir / "api-key").read_text().strip().encode() not in everything
    assert last_backup(node.datadir) is not None


def test_with_passphrases(node: Cli, tmp_path: Path) -> None:
    ran = node("backup", "create", str(tmp_path / "b"), "--with-passphrases", "--json")
    assert "wallets/default.passphrase" in json.loads(ran.out)["files"]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    write_secret(file, "correct horse")
    return file


def test_sealed(node: Cli, tmp_path: Path, secret: Path) -> None:
    file, given = tmp_path / "sealed", ("--passphrase-file", str(secret))
    assert node("backup", "create", str(file), "--encrypt").code == 77  # nobody to ask
    ran = node("backup", "create", str(file), "--encrypt", *given)
    assert (ran.code, "as secret as the node" in ran.err) == (0, False)
    assert (node.datadir / "keys" / "node.key").read_bytes() not in file.read_bytes()
    assert not is_gzip(file)
    assert node("backup", "verify", str(file), *given).code == 0
    assert node("backup", "verify", str(file)).code == 77
    before = content(node.datadir)
    secret.write_text("wrong horse\n")
    assert node("backup", "restore", str(file), *given).code == 77
    assert content(node.datadir) == before
    secret.write_text("correct horse\n")
    assert node("backup", "restore", str(file), *given).code == 0


def is_gzip(file: Path) -> bool:
    return file.read_bytes().startswith(b"\x1f\x8b")


def test_sealed_in_pieces(tmp_path: Path) -> None:
    """Sizes around the piece, and every way to lose or swap one."""
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    for length in (1, sealing.PIECE, sealing.PIECE + 1, 3 * sealing.PIECE):
        plain.write_bytes(b"x" * length)
        for path in (sealed, opened):
            path.unlink(missing_ok=True)
        sealing.seal(plain, sealed, "secret")
        sealing.unseal(sealed, opened, "secret")
        assert opened.read_bytes() == plain.read_bytes()
    whole = sealed.read_bytes()
    end, piece = len(whole), sealing.SEALED_PIECE
    for damaged in (
        whole[: end - piece],
        whole[:-1],
        whole + b"x",
        whole[: end - 2 * piece] + whole[end - piece :] + whole[end - 2 * piece : end - piece],
        whole[:-5] + b"\0" + whole[-4:],
        whole[:30],
    ):
        sealed.write_bytes(damaged)
        opened.unlink()
        with pytest.raises(BackupInvalid):
            sealing.unseal(sealed, opened, "secret")


def test_a_seal_that_asks_for_an_hour(tmp_path: Path) -> None:
    file = tmp_path / "hostile"
    file.write_bytes(sealing.MAGIC + sealing.HEAD.pack(255, 1 << 31, b"s" * 16) + b"\0" * 99)
    with pytest.raises(BackupInvalid, match="more work"):
        sealing.unseal(file, tmp_path / "opened", "secret")


def test_in_its_usual_place(node: Cli) -> None:
    ran = node("backup", "create")
    assert ran.code == 0
    (file,) = (node.datadir / "backups").glob("r3mes-*.tar.gz")
    assert str(file) in ran.out
    assert node("backup", "create").code == 0  # also within the same second
    assert len(list((node.datadir / "backups").glob("r3mes-*.tar.gz"))) == 2


def test_a_file_that_is_there_is_left_alone(node: Cli, backup: Path) -> None:
    before = backup.read_bytes()
    ran = node("backup", "create", str(backup))
    assert (ran.code, backup.read_bytes()) == (73, before)
    assert "is there already" in ran.err


def test_without_a_node(cli: Cli, tmp_path: Path) -> None:
    ran = cli("backup", "create", str(tmp_path / "b"))
    assert ran.code == 78
    assert "run `r3mes init`" in ran.err.lower()
    assert not (tmp_path / "b").exists()


async def test_beside_a_node_that_writes(node: Cli, tmp_path: Path) -> None:
    file = tmp_path / "online.tar.gz"
    async with open_store(node.datadir) as store, trio.open_nursery() as nursery:
        await store.tx(lambda db: db.execute("CREATE TABLE n (n INTEGER)").rowcount)

        async def write() -> None:
            while True:
                await store.tx(lambda db: db.execute("INSERT INTO n VALUES (1)").rowcount)

        nursery.start_soon(write)
        ran = await trio.to_thread.run_sync(node, "backup", "create", str(file))
        assert ran.code == 0, ran.err
        refused = await trio.to_thread.run_sync(node, "backup", "restore", str(file))
        assert refused.code == 75
        assert "R3-STORE-006" in refused.err
        nursery.cancel_scope.cancel()
    assert node("backup", "verify", str(file)).code == 0


def refused(node: Cli, file: Path) -> str:
    """Restore must fail and change nothing; returns why."""
    before = content(node.datadir)
    ran = node("backup", "restore", str(file))
    assert content(node.datadir) == before
    assert (ran.code, ran.out) == (65, ""), ran
    assert ran.err.startswith("error R3-STORE-007: ")
    assert node("backup", "verify", str(file)).code == 65
    return ran.err


def test_cut_off_anywhere(node: Cli, backup: Path, tmp_path: Path) -> None:
    whole, cut = backup.read_bytes(), tmp_path / "cut"
    for length in (0, 1, 17, 512, *range(0, len(whole), len(whole) // 7), len(whole) - 1):
        cut.write_bytes(whole[:length])
        refused(node, cut)


def test_changed_anywhere(node: Cli, backup: Path, tmp_path: Path) -> None:
    whole, changed = backup.read_bytes(), tmp_path / "changed"
    for at in range(12, len(whole), len(whole) // 9):
        changed.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        refused(node, changed)


def drop_wallet(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    del files["wallets/default.json"]


def climb(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["wallets/../../evil.json"] = files["wallets/default.json"]


def new_line(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["config.toml\n"] = b""


def smuggle(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["smuggled"] = True


def other_node(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["peer_id"] = "12D3KooWelse"


def no_key(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["keys/node.key"] = b"nothing like a key"


def no_database(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["r3mes.sqlite3"] = b"SQLite format 3\0" + b"\xff" * 5000


def damaged_wallet(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["wallets/default.json"] = files["wallets/default.json"].replace(b'"ops"', b'"opq"')


def later_format(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["format"] = 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (drop_wallet, "it has no wallet"),
        (climb, "its manifest cannot be read"),
        (new_line, "its manifest cannot be read"),
        (smuggle, "unknown field"),
        (other_node, "its node key is not the one it says"),
        (no_key, "keys/node.key is not a node key"),
        (no_database, "is damaged"),
        (damaged_wallet, "wallets/default.json is damaged"),
        (later_format, "has format 2"),
    ],
)
def test_made_up(node: Cli, backup: Path, tmp_path: Path, change: Change, why: str) -> None:
    """Checksums fit in all of these: what is inside is looked at as well."""
    files = members(backup)
    manifest = json.loads(files.pop("manifest.json"))
    change(manifest, files)
    folder = tmp_path / "parts"
    paths = {}
    for number, (name, data) in enumerate(files.items()):
        folder.mkdir(exist_ok=True)
        paths[name] = folder / str(number)
        paths[name].write_bytes(data)
    manifest["files"] = msgspec.to_builtins(entries_of(paths))
    made_up = tmp_path / "made-up.tar.gz"
    with tarfile.open(made_up, "w:gz") as archive:
        for name, data in {"manifest.json": json.dumps(manifest).encode(), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert why in refused(node, made_up)
    assert not (node.datadir.parent / "evil.json").exists()


def test_no_backup_at_all(node: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as archive:
        archive.add(node.datadir / "config.toml", "config.toml")
    assert "does not begin with a manifest" in refused(node, other)
    ran = node("backup", "verify", str(tmp_path / "none"))
    assert (ran.code, ran.err.startswith("error R3-REQ-004: ")) == (66, True)


def test_data_of_a_newer_version_is_named_where_it_is(node: Cli, tmp_path: Path) -> None:
    database = node.datadir / "r3mes.sqlite3"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    ran = node("backup", "create", str(tmp_path / "backup"))
    assert (ran.code, f"{database} has schema 99" in ran.err) == (78, True)


def test_where_the_passphrase_is_that_is_not_in_it(node: Cli, tmp_path: Path, secret: Path) -> None:
    beside = node.datadir / "wallets" / "default.passphrase"
    made = node("backup", "create", str(tmp_path / "1"))
    assert f"keep {beside} in another place" in made.err
    node("config", "set", "wallet.passphrase_file", str(secret))
    made = node("backup", "create", str(tmp_path / "2"), "--with-passphrases")
    assert f"keep {secret} in another place" in made.err
    node("config", "unset", "wallet.passphrase_file")
    beside.unlink()
    made = node("backup", "create", str(tmp_path / "3"))
    assert "only those know it who typed it" in made.err


def test_restoring_over_a_node_keeps_what_was_there(node: Cli, backup: Path) -> None:
    (node.datadir / "config.toml").write_text("# mine\n")
    before = content(node.datadir)
    would = node("backup", "restore", str(backup), "--dry-run")
    assert would.code == 0
    assert content(node.datadir) == before
    done = node("backup", "restore", str(backup), "--json")
    assert done.code == 0, done.err
    aside = [Path(path) for path in json.loads(done.out)["aside"]]
    assert {path.read_bytes() for path in aside} >= {
        b"# mine\n", before["keys/node.key"], before["r3mes.sqlite3"]
    }  # fmt: skip
    assert (node.datadir / "config.toml").read_bytes() != b"# mine\n"
    assert "wallets/default.passphrase" in content(node.datadir)


def test_a_restore_that_was_interrupted_can_be_run_again(
    node: Cli, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(node.datadir)
    real, puts = disk.put, 0

    def put(source: Path, place: Path) -> None:
        nonlocal puts
        puts += 1
        if puts == 3:
            raise OSError(28, "No space left on device", str(place))
        real(source, place)

    monkeypatch.setattr(disk, "put", put)
    config = node.datadir / "config.toml"
    with pytest.raises(StoreError, match="No space left"):
        restore_backup(backup, node.datadir, config)
    assert not (node.datadir / "keys" / "node.key").exists()  # so that nothing starts by mistake
    assert "holds no node yet" in node("run").err
    assert set(before.values()) <= set(content(node.datadir).values())
    monkeypatch.undo()
    restore_backup(backup, node.datadir, config)
    assert content(node.datadir)["keys/node.key"] == before["keys/node.key"]


def test_restores_within_one_second_keep_what_each_of_them_found(
    node: Cli, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.gmtime", lambda: (2026, 11, 25, 12, 0, 0, 2, 329, 0))
    config = node.datadir / "config.toml"
    for text in ("# first\n", "# second\n", "# third\n"):
        config.write_text(text)
        restore_backup(backup, node.datadir, config)
    kept = {path.read_text() for path in node.datadir.glob("config.toml.replaced-*")}
    assert kept == {"# first\n", "# second\n", "# third\n"}


def test_what_a_kill_left_of_a_backup_goes_with_the_next(node: Cli) -> None:
    old, new = node.datadir / ".backup-old", node.datadir / ".backup-new"
    for folder in (old, new):
        (folder / "keys").mkdir(parents=True)
        (folder / "keys" / "node.key").write_text("a copy")
    day_ago = time.time() - disk.OLD_S - 1
    os.utime(old, (day_ago, day_ago))
    assert node("backup", "create").code == 0
    assert [path.name for path in node.datadir.glob(".backup-*")] == [new.name]  # may be at work


def test_who_has_the_keys_is_noted(node: Cli, tmp_path: Path) -> None:
    file = tmp_path / "out.tar.gz"
    assert node("backup", "create", str(file), "--with-passphrases").code == 0
    assert node("backup", "restore", str(file), "--dry-run").code == 0
    assert node("backup", "restore", str(file)).code == 0
    events = [json.loads(line) for line in (node.datadir / "audit.log").read_text().splitlines()]
    made, restored = (one for one in events if one["event"].startswith("backup_"))
    assert (made["file"], made["passphrases"], made["sealed"]) == (str(file), True, False)
    assert (restored["event"], restored["file"]) == ("backup_restored", str(file))
