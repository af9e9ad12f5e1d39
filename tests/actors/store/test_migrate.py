"""Schema steps: in order, each whole or not at all, never without a backup."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import pytest

from r3mes import __version__
from r3mes.actors.keyring import Keyring
from r3mes.actors.keyring.form import hash_of, new_secret
from r3mes.actors.store import BACKUPS, DATABASE, Store, open_readonly, open_store
from r3mes.actors.store import migrate as module
from r3mes.actors.store.migrate import Migration, migrate, shipped, version
from r3mes.errors import StoreError, StoreNewer

Extend: TypeAlias = Callable[[Migration], None]
NEXT = len(shipped()) + 1
GROW = Migration(NEXT, "grow", "ALTER TABLE peer ADD COLUMN note TEXT;\n")
WRONG = Migration(NEXT, "wrong", "CREATE TABLE half (i);\nINSERT INTO missing VALUES (1);\n")


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> Extend:
    """Pretend to be a later program that ships one more step."""

    def extend(step: Migration) -> None:
        monkeypatch.setattr("r3mes.actors.store.writer.shipped", lambda: (*module.shipped(), step))

    return extend


async def with_a_peer(datadir: Path) -> None:
    async with open_store(datadir) as store:
        await store.tx(lambda c: c.execute("INSERT INTO peer VALUES ('a', '[]', 0)"))


def peer(path: Path) -> tuple[int, list[tuple[object, ...]]]:
    with closing(open_readonly(path)) as connection:
        return version(connection), connection.execute("SELECT * FROM peer").fetchall()


async def test_a_new_directory_has_the_whole_schema_and_no_backup(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.read(version) == len(shipped())
        rows = await store.read(
            lambda c: c.execute("SELECT version, name, program FROM migration").fetchall()
        )
    assert rows == [(step.version, step.name, __version__) for step in shipped()]
    assert not (tmp_path / BACKUPS).exists()


async def test_data_is_backed_up_and_then_migrated(tmp_path: Path, extended: Extend) -> None:
    await with_a_peer(tmp_path)
    extended(GROW)
    async with open_store(tmp_path):
        pass
    assert peer(tmp_path / DATABASE) == (NEXT, [("a", "[]", 0, None)])
    saved = tmp_path / BACKUPS / f"pre-v{NEXT}.sqlite3"
    assert peer(saved) == (NEXT - 1, [("a", "[]", 0)])
    assert {file.name for file in saved.parent.iterdir()} == {saved.name}
    assert saved.stat().st_mode & 0o777 == 0o600


async def test_the_last_statement_needs_no_semicolon(tmp_path: Path, extended: Extend) -> None:
    extended(Migration(NEXT, "open end", "CREATE TABLE x (i);\nCREATE TABLE y (i)\n"))
    async with open_store(tmp_path) as store:
        assert await store.read(lambda c: c.execute("SELECT * FROM y").fetchall()) == []


async def test_a_step_that_fails_leaves_the_data_as_it_was(
    tmp_path: Path, extended: Extend
) -> None:
    await with_a_peer(tmp_path)
    extended(WRONG)
    with pytest.raises(StoreError, match="missing"):
        async with open_store(tmp_path):
            pass
    assert peer(tmp_path / DATABASE) == (NEXT - 1, [("a", "[]", 0)])
    with closing(open_readonly(tmp_path / DATABASE)) as connection:
        assert (
            connection.execute("SELECT * FROM sqlite_schema WHERE name = 'half'").fetchall() == []
        )


async def test_a_backup_that_fails_stops_the_migration(tmp_path: Path, extended: Extend) -> None:
    await with_a_peer(tmp_path)
    (tmp_path / BACKUPS).write_text("a file where the folder should be")
    extended(GROW)
    with pytest.raises(StoreError, match="backups"):
        async with open_store(tmp_path):
            pass
    assert peer(tmp_path / DATABASE)[0] == NEXT - 1


async def test_newer_data_is_refused_by_name(
    tmp_path: Path, extended: Extend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_a_peer(tmp_path)
    with monkeypatch.context() as later:
        extended(GROW)
        later.setattr(module, "__version__", "0.9.9")
        async with open_store(tmp_path):
            pass
    monkeypatch.undo()
    with pytest.raises(StoreNewer) as refused:
        async with open_store(tmp_path):
            pass
    said = str(refused.value)
    for part in (
        f"schema {NEXT} (written by 0.9.9)",
        f"r3mes {__version__} (schema {NEXT - 1} at most)",
        "nstall r3mes >= 0.9.9",
        f"{tmp_path}/{BACKUPS}/pre-v{NEXT}.sqlite3",
    ):
        assert part in said
    assert refused.value.kind.exit == 78
    assert peer(tmp_path / DATABASE)[0] == NEXT


def test_data_of_a_stranger_is_refused_too(tmp_path: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA user_version = 99")
        with pytest.raises(StoreNewer, match="written by a newer version"):
            migrate(connection, tmp_path, shipped())


def test_the_numbers_have_no_gap(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("SELECT 1;")
    with pytest.raises(RuntimeError, match="without gaps"):
        shipped(tmp_path)


async def test_a_backup_of_the_same_name_is_replaced_whole(
    tmp_path: Path, extended: Extend
) -> None:
    await with_a_peer(tmp_path)
    (tmp_path / BACKUPS).mkdir()
    saved = tmp_path / BACKUPS / f"pre-v{NEXT}.sqlite3"
    saved.write_bytes(b"an older one")
    saved.with_name(saved.name + ".part").write_bytes(b"torn by a power cut")
    extended(GROW)
    async with open_store(tmp_path) as store:
        assert isinstance(store, Store)
    assert peer(saved)[1] == [("a", "[]", 0)]


async def test_keys_made_before_their_limits_go_on_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schema 3 moved the secrets of keys into a table of their own."""
    with monkeypatch.context() as earlier:
        earlier.setattr("r3mes.actors.store.writer.shipped", lambda: module.shipped()[:2])
        async with open_store(tmp_path) as store:
            secret = new_secret("oldkeyid")
            row = ("oldkeyid", hash_of(secret), "laptop", "ri", 5, 7, None)
            await store.tx(
                lambda c: c.execute("INSERT INTO api_key VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            )
    async with open_store(tmp_path) as store:
        key = await Keyring(store, now_ms=lambda: 8).check(secret)
    assert (key.name, key.scopes) == ("laptop", frozenset("ri"))
    assert (key.created_ms, key.last_used_ms) == (5, 7)
    assert (key.models, key.rpm, key.expires_ms, key.revoked_ms) == (None, None, None, None)
