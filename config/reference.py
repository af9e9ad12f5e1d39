"""``docs/config.md``, made from the schema: ``python -m r3mes.config.reference`` rewrites it."""

from __future__ import annotations

from inspect import getdoc
from pathlib import Path

import msgspec

from r3mes.config.keys import TABLES, Key, keys_of, sections
from r3mes.config.paths import data_directory

PAGE = Path(__file__).resolve().parent.parent / "docs" / "config.md"

HEAD = """\
# Configuration

Made from `config/schema.py` by `python -m r3mes.config.reference`.

The file is `~/.config/r3mes/config.toml` (`$XDG_CONFIG_HOME`). `R3MES_CONFIG` or `--config` name
another one; `--datadir DIR` keeps everything in one place, with `DIR/config.toml`. A value comes
from the first of these that has it: a flag (`--set KEY=VALUE` sets any key), the environment
(`R3MES_API__LISTEN` sets `api.listen`; lists with commas), the file, the default.
`r3mes config show --origin` says what is in force and where it comes from; `r3mes config check`
exits with 78 and names file, line and key when something is wrong. Keys that do not exist are
errors. Relative paths count from the folder of the file; in the environment and in flags, from the
current folder. Files with secrets must not be readable by others (mode 0600).
"""


def config_page() -> str:
    """The whole page."""
    return HEAD + "".join(_section(name) for name in sections())


def _section(name: str) -> str:
    layer = sections()[name]
    title = f"[[{name}]]" if name in TABLES else f"[{name}]"
    rows = "".join(_row(short, key) for short, key in keys_of(layer, name).items())
    head = "| key | default | what is right | what it is for |\n|---|---|---|---|\n"
    return f"\n## `{title}`\n\n{getdoc(layer)}\n\n{head}{rows}"


def _row(short: str, key: Key) -> str:
    return f"| `{short}` | {_default(key)} | {key.expects} | {key.description} |\n"


def _default(key: Key) -> str:
    if key.required:
        return "(required)"
    if key.default is None:
        return "(not set)"
    if key.default == data_directory():
        return "`~/.local/share/r3mes`"
    return f"`{msgspec.json.encode(key.default, enc_hook=str).decode()}`"


def main() -> None:
    """Rewrite the page in the checkout."""
    PAGE.write_text(config_page())


if __name__ == "__main__":
    main()
