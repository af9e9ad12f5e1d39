"""Where files are by default: the XDG directories, or all in one place with ``--datadir``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

APP = "r3mes"
CONFIG_VARIABLE = "R3MES_CONFIG"
DATADIR_VARIABLE = "R3MES_NODE__DATADIR"
SYSTEM_CONFIG = Path("/etc/r3mes/config.toml")
SYSTEM_DATA = Path("/var/lib/r3mes")
"""Of the node that runs as a service of this machine."""


def data_directory() -> Path:
    """``~/.local/share/r3mes``, or what XDG_DATA_HOME says."""
    return platformdirs.user_data_path(APP)


def programs_directory() -> Path:
    """Where code made for this machine lies, for all nodes of a user."""
    return platformdirs.user_cache_path(APP) / "programs"


def config_file(env: Mapping[str, str], datadir: Path | None = None) -> Path:
    """The configuration file: named by R3MES_CONFIG, in ``datadir`` if given, else XDG's."""
    if named := env.get(CONFIG_VARIABLE):
        return Path(named).expanduser()
    if datadir is None and (chosen := env.get(DATADIR_VARIABLE)):
        datadir = Path(chosen).expanduser()
    return (datadir or platformdirs.user_config_path(APP)) / "config.toml"


def config_file_in_force(env: Mapping[str, str], datadir: Path | None = None) -> Path:
    """The same; but who neither has one nor names one gets that of the machine's service.

    So those who look after a service reach it by the plain commands.
    """
    own = config_file(env, datadir)
    unnamed = own.parent == platformdirs.user_config_path(APP)
    if unnamed and not own.exists() and os.access(SYSTEM_CONFIG, os.R_OK):
        return SYSTEM_CONFIG
    return own
