"""The node's wallet over JSON-RPC: opened and locked over the admin socket, and no other way."""

from __future__ import annotations

from pathlib import Path

import pytest

from r3mes.chain.keys.keystore import KdfCost, create_keystore
from r3mes.chain.keys.wallet import Wallet
from r3mes.config.schema import Config, Node
from r3mes.node.http.auth import AdminKey
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.wallet import WalletMethods
from r3mes.node.vault import Vault
from tests.node.rpc.conftest import Caller, Key


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    path = tmp_path / "wallets" / "default.json"
    create_keystore(path, Wallet.create(), "right", cost=KdfCost(ops=1, memory=8 << 20))
    return Vault(path)


def caller(vault: Vault, tmp_path: Path, key: Key | None = None) -> Caller:
    config = Config(node=Node(datadir=tmp_path))
    return Caller(Dispatcher(WalletMethods(config, vault)), key or AdminKey())  # type: ignore[arg-type]


async def test_open_and_lock(vault: Vault, tmp_path: Path) -> None:
    call = caller(vault, tmp_path)
    wrong = await call("wallet_unlock", passphrase="wrong")  # noqa: S106
    assert (wrong["data"]["code"], vault.is_open) == ("passphrase_wrong", False)
    opened = await call("wallet_unlock", passphrase="right", ttl_s=60)  # noqa: S106
    assert opened == {"address": vault.address, "is_open": True}
    assert vault.is_open
    assert (await call("wallet_lock"))["is_open"] is False
    assert not vault.is_open


async def test_over_http_it_is_refused_whatever_the_scopes(vault: Vault, tmp_path: Path) -> None:
    call = caller(vault, tmp_path, Key())
    for name, params in (("wallet_unlock", {"passphrase": "right"}), ("wallet_lock", {})):
        assert (await call(name, **params))["data"]["code"] == "permission_denied"
    assert not vault.is_open
