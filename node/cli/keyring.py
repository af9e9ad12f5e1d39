"""The ``key_…`` methods: of the running node, or on its store while none runs.

Both ways are the same functions, with the same checks and the same events in the audit log.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from r3mes.config.schema import Config
from r3mes.node.cli.api import call
from r3mes.node.running import read_running


def ask_keyring(config: Config, name: str, /, **params: Any) -> Any:
    """The result of the method ``name``, in JSON's types.

    Raises:
        R3mesError: what the method raises.
        DataDirLocked: a node holds the store but does not say where it is; it starts or stops.
    """
    if read_running(config.node.datadir) is not None:
        return call(config, name, **params)

    import trio

    return trio.run(partial(_on_the_store, config.node.datadir, name, params))


async def _on_the_store(datadir: Path, name: str, params: Mapping[str, object]) -> Any:
    import msgspec

    from r3mes.actors.keyring import Keyring
    from r3mes.actors.ledger import Ledger
    from r3mes.actors.store import open_store
    from r3mes.node.audit import keep_audit_log
    from r3mes.node.http.auth import AdminKey
    from r3mes.node.rpc.context import Context
    from r3mes.node.rpc.method import methods_of
    from r3mes.node.rpc.methods.key import KeyMethods
    from r3mes.node.rpc.params import Params

    keep_audit_log(datadir)
    async with open_store(datadir) as store:
        keyring = Keyring(store, now_ms=_now_ms)
        methods = methods_of(KeyMethods(keyring, Ledger(store, now_ms=_now_ms)))
        call_it = next(one.call for one in methods if one.name == name)
        checked = Params(call_it)
        given = checked.validate_params(dict(params))
        if checked.context is not None:
            given[checked.context] = Context(AdminKey(name="command line"))
        told = await call_it(**given)
        return msgspec.to_builtins(told)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
