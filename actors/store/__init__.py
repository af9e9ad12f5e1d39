"""The store: SQLite behind one writer, acknowledged means durable.

Only this folder imports sqlite3 or aiosqlite.  Others take a `Store` and write functions of a
`Connection`.
"""

from r3mes.actors.store.batch import Connection, Transaction
from r3mes.actors.store.client import Store, open_store
from r3mes.actors.store.connections import open_readonly
from r3mes.actors.store.datadir import BACKUPS, DATABASE
from r3mes.actors.store.migrate import SCHEMA
from r3mes.actors.store.writer import StoreActor

__all__ = [
    "BACKUPS",
    "DATABASE",
    "SCHEMA",
    "Connection",
    "Store",
    "StoreActor",
    "Transaction",
    "open_readonly",
    "open_store",
]
