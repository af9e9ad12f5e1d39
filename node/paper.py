"""Whether a wallet's words were written down: noted in a file beside the wallet."""

from __future__ import annotations

import time
from pathlib import Path

from r3mes.config.schema import Config


def _note(config: Config, name: str) -> Path:
    return config.node.datadir / "wallets" / f"{name}.backed-up"


def is_backed_up(config: Config, name: str) -> bool:
    """Whether somebody has proved to have the words of the wallet ``name``."""
    return _note(config, name).exists()


def record_backup(config: Config, name: str) -> str:
    """Note it; returns the date."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    _note(config, name).write_text(f"{today}\n")
    return today
