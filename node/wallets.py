"""The wallets in the data directory; their addresses need no passphrase."""

from __future__ import annotations

from dataclasses import dataclass

from r3mes.config.schema import Config
from r3mes.node.paper import is_backed_up


@dataclass(frozen=True, slots=True)
class WalletShown:
    """A wallet: its name, its account, and whether somebody has proved to have its words."""

    name: str
    address: str
    backed_up: bool


def wallet_shown(config: Config, name: str) -> WalletShown:
    """The wallet called ``name``.

    Raises:
        WalletMissing, WalletError, InsecureFile: it cannot be read.
    """
    from r3mes.chain.keys.keystore import read_address

    address = read_address(config.node.datadir / "wallets" / f"{name}.json")
    return WalletShown(name, address, is_backed_up(config, name))


def wallets_shown(config: Config) -> list[WalletShown]:
    """All of them, by name; blocks while files are read.

    Raises:
        WalletError, InsecureFile: one cannot be read.
    """
    folder = config.node.datadir / "wallets"
    return [wallet_shown(config, path.stem) for path in sorted(folder.glob("*.json"))]
