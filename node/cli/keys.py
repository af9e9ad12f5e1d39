"""`r3mes keys`: who may use this node. A secret is shown once, or goes straight into a file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from r3mes.config.schema import Config
from r3mes.config.secrets import is_there, read_secret, replace_secret, write_secret
from r3mes.errors import AlreadyThere, BadRequest, ConfigError
from r3mes.node.cli import completion
from r3mes.node.cli.init import home
from r3mes.node.cli.keyring import ask_keyring
from r3mes.node.cli.output import duration, say, show, show_json, table
from r3mes.node.cli.session import session

app = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="As `r3mes keys list` shows it.", autocompletion=completion.key
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Write the secret into this file (0600), and show it nowhere.")
]
HEAD = ("ID", "NAME", "STATE", "SCOPES", "MODELS", "RPM", "LAST USED", "ENDS", "OLD SECRET")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for, such as the application's name.")],
    scopes: Annotated[
        str, typer.Option(help="Some of: r read, i invoke, w wallet, a admin.")
    ] = "ri",
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may ask; may be repeated. Else all.")
    ] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="After a time, such as 90d, or on a day, such as 2027-01-31.")
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Make a key; its secret can be shown only now."""
    config = _initialised(context)
    _check_free(out)
    made = ask_keyring(
        config,
        "key_create",
        name=name,
        scopes=scopes,
        models=model or None,
        rpm=rpm,
        expires_ms=_until_ms(expires) if expires else None,
    )
    _hand_over(made, out, json=json)


@app.command("list")
def list_keys(context: typer.Context, json: Json = False) -> None:
    """List the keys, without their secrets."""
    keys = ask_keyring(_initialised(context), "key_list")
    if json:
        show_json(keys)
    else:
        show(table(HEAD, [_row(key) for key in keys]))


@app.command()
def rotate(
    context: typer.Context,
    key_id: Id,
    grace: Annotated[str, typer.Option(help="How long the old secret still opens the key.")] = "1d",
    out: Out = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="End the old secret now, and make no new one.")
    ] = False,
    json: Json = False,
) -> None:
    """Make another secret for a key; the old one goes on for a while.

    A file that has a secret of the same key may be named with --out: it is replaced.
    """
    config = _initialised(context)
    if finish:
        ask_keyring(config, "key_retire", id=key_id)
        say(f"Only the newest secret of {key_id} opens it now.")
        return
    _check_free(out, key_id)
    seconds = _seconds(grace)
    _hand_over(ask_keyring(config, "key_rotate", id=key_id, grace_s=seconds), out, json=json)
    say(f"The old secret works for {duration(seconds)} more; `r3mes keys list` shows when it was "
        f"used last.   next: r3mes keys rotate {key_id} --finish")  # fmt: skip


@app.command()
def revoke(context: typer.Context, key_id: Id) -> None:
    """Refuse a key from now on."""
    ask_keyring(_initialised(context), "key_revoke", id=key_id)
    say(f"The key {key_id} opens nothing any more.")


@app.command()
def usage(context: typer.Context, key_id: Id, json: Json = False) -> None:
    """Show what was answered for a key, and what it cost."""
    used = ask_keyring(_initialised(context), "key_usage", id=key_id)
    if json:
        show_json(used)
    else:
        show(f"{used['answers']} answers, {used['prompt_tokens']} tokens of prompts and "
             f"{used['completion_tokens']} of answers, {used['cost_uremes']} uremes")  # fmt: skip


def _initialised(context: typer.Context) -> Config:
    config = session(context).to_ask()
    if not is_there(config.node.datadir / "keys" / "node.key"):
        raise ConfigError(f"{config.node.datadir} holds no node yet", do="run `r3mes init`")
    return config


def _check_free(out: Path | None, key_id: str | None = None) -> None:
    """See that nothing else would be overwritten, before the secret is made."""
    if out is not None and is_there(out):
        if key_id is None:
            raise AlreadyThere(f"{out} exists; nothing was made", do="name another file")
        if not read_secret(out).startswith(f"r3k_{key_id}_"):
            raise BadRequest(f"{out} has no secret of the key {key_id}", do="name another file")


def _hand_over(made: Mapping[str, Any], out: Path | None, *, json: bool) -> None:
    if out is not None:
        (replace_secret if is_there(out) else write_secret)(out, made["secret"])
    told = {"id": made["id"], **({"file": str(out)} if out else {"secret": made["secret"]})}
    if json:
        show_json(told)
    elif out is not None:
        show(f"Wrote a secret of the key {made['id']} to {home(out)} (0600)")
    else:
        say(f"A secret of the key {made['id']}. It is shown once, and not stored:")
        show(made["secret"])


def _row(key: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        key["id"],
        key["name"],
        key["state"],
        key["scopes"],
        "all" if key["models"] is None else ",".join(key["models"]),
        key["rpm"] or "-",
        _ago(key["last_used_ms"]),
        _in(key["expires_ms"]),
        next((_old(one) for one in key["secrets"][:-1] if _left_s(one["expires_ms"]) > 0), "-"),
    )


def _old(secret: Mapping[str, Any]) -> str:
    return f"used {_ago(secret['last_used_ms'])}, ends {_in(secret['expires_ms'])}"


def _ago(ms: int | None) -> str:
    return "never" if ms is None else f"{duration(max(0.0, -_left_s(ms)))} ago"


def _in(ms: int | None) -> str:
    if ms is None:
        return "never"
    return f"in {duration(_left_s(ms))}" if _left_s(ms) > 0 else _ago(ms)


def _left_s(ms: int) -> float:
    return ms / 1000 - time.time()


def _until_ms(text: str) -> int:
    if re.fullmatch(r"\d{1,6}[smhdw]", text):
        return int((time.time() + _seconds(text)) * 1000)
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadRequest(f"{text!r} is no time", do="write 90d or 2027-01-31") from None


def _seconds(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}[smhdw]", text):
        raise BadRequest(f"{text!r} is no duration", do="write 30m, 12h or 7d")
    return int(text[:-1]) * SECONDS[text[-1]]
