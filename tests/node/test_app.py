"""How the parts of a node are wired: what happens to one when another dies."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio

from r3mes.actors.kernel.supervisor import Strategy, Supervisor
from r3mes.actors.store import Connection
from r3mes.actors.store.writer import StoreActor, Write
from r3mes.chain.keys.wallet import Wallet
from r3mes.config.load import Loaded
from r3mes.config.schema import Config
from r3mes.config.schema import Node as NodeSection
from r3mes.errors import ActorCrashed, ActorStopped, NotReady
from r3mes.ids import Address, RequestHash
from r3mes.node.app import Node
from r3mes.node.clock import now_ms
from r3mes.node.reload import Reload
from r3mes.node.vault import Vault
from r3mes.p2p.identity import NodeKey

SUB, IDEM, REQUEST = Address("remes1caller"), b"i" * 16, RequestHash(b"r" * 32)


def open_jobs(connection: Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM job").fetchone()
    return int(count)


async def test_jobs_that_were_open_when_the_store_died_may_be_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(node=NodeSection(datadir=tmp_path))
    vault = Vault(tmp_path / "wallet.json", Wallet.create())
    loaded = Loaded(config, tmp_path / "config.toml", {})
    reload = Reload(loaded, lambda: loaded, now_ms=now_ms)
    node = Node(reload, NodeKey(b"n" * 32), vault, lambda running: None)
    two = [child for child in node._children() if child.name in ("store", "ledger")]
    tree = Supervisor("store and ledger", two, strategy=Strategy.REST_FOR_ONE)

    async def die(self: StoreActor, batch: list[Write]) -> None:
        raise RuntimeError("the store dies")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(tree.run)
            await node.ledger.open_job(SUB, IDEM, REQUEST)
            with monkeypatch.context() as patch:
                patch.setattr(StoreActor, "_commit", die)
                with pytest.raises(ActorCrashed):
                    await node.ledger.drop_job(SUB, IDEM, REQUEST)
            left = True
            while left:
                with suppress(ActorStopped, NotReady):  # a read under which the store dies
                    left = bool(await node.store.read(open_jobs))
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
