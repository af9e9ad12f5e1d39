"""init, config, wallet: what is on this machine, without a node that runs."""

from __future__ import annotations

import errno
import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from r3mes.actors.store import open_store
from r3mes.node.cli import passphrase
from r3mes.node.cli.run import program

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli

WORDS = " ".join(["abandon"] * 23 + ["art"])


@pytest.fixture
def node(cli: Cli) -> Cli:
    assert cli("init").code == 0
    return cli


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("r3mes.sqlite3", "lock"))
    }


def test_init_creates_everything_once(cli: Cli) -> None:
    first = cli("init")
    assert first.code == 0, first.err
    assert first.out.count("Created") == 5
    assert re.search(r"peer id 12D3KooW\w+", first.out)
    assert re.search(r"address remes1\w+", first.out)
    assert "next: r3mes wallet backup   then: r3mes run" in first.out
    before = files(cli.datadir)
    for name in ("api-key", "keys/node.key", "wallets/default.json", "wallets/default.passphrase"):
        assert stat.S_IMODE((cli.datadir / name).stat().st_mode) == 0o600, name
        assert before[name].decode("latin-1").strip() not in first.out + first.err
    second = cli("init")
    assert (second.code, second.out.count("Created"), second.out.count("Kept")) == (0, 0, 4)
    assert files(cli.datadir) == before


def test_init_quietly(cli: Cli) -> None:
    first = cli("init", "--quiet")
    assert (first.code, first.out) == (0, "")
    assert first.err.count("Created") == 5
    assert cli("init", "--quiet") == type(first)(0, "", "")


def test_init_heals_what_is_missing(node: Cli) -> None:
    before = files(node.datadir)
    (node.datadir / "api-key").unlink()
    again = node("init")
    assert (again.code, again.out.count("Created")) == (0, 1)
    after = files(node.datadir)
    for changed in ("api-key", "audit.log"):
        assert after.pop(changed) != before.pop(changed)
    assert after == before


def test_init_uses_a_generated_passphrase_of_a_start_that_was_cut_short(cli: Cli) -> None:
    passphrase.generate(cli.datadir / "wallets" / "default.passphrase")
    assert cli("init").code == 0


def test_init_with_a_passphrase_file(cli: Cli, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o644)
    refused = cli("init", "--passphrase-file", str(secret))
    assert refused.code == 78
    assert refused.err.startswith("error R3-CONF-002: ")
    assert "chmod 600" in refused.err
    assert "horse" not in refused.out + refused.err
    secret.chmod(0o600)
    assert cli("init", "--passphrase-file", str(secret)).code == 0
    assert not (cli.datadir / "wallets" / "default.passphrase").exists()


async def test_init_beside_a_running_node_says_so(node: Cli) -> None:
    (node.datadir / "api-key").unlink()
    async with open_store(node.datadir):
        ran = await trio.to_thread.run_sync(node, "init")
    assert ran.code == 75
    assert "R3-STORE-006" in ran.err


def test_config_show(node: Cli) -> None:
    one = node("config", "show", "api.listen")
    assert (one.code, one.out) == (0, "127.0.0.1:7331\n")
    everything = node("config", "show", "--origin").out
    assert re.search(r'node.datadir = ".*"\s+# flag --datadir', everything)
    assert re.search(r"models = .*builtin.*# file .*config.toml:4", everything)
    shown = json.loads(node("config", "show", "--json", "--origin").out)
    assert shown["limits.slots"] == {"value": 4, "origin": "default"}


def test_config_show_of_an_unknown_key(node: Cli) -> None:
    ran = node("config", "show", "api.listn")
    assert ran.code == 78
    assert "did you mean listen" in ran.err


def test_config_check(node: Cli, tmp_path: Path) -> None:
    assert node("config", "check").out.startswith("ok  ")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[api]\nlistn = 1\n")
    ran = node("config", "check", str(wrong))
    assert (ran.code, ran.out) == (78, "")
    assert ran.err.startswith(f"error R3-CONF-001: file {wrong}:2: ")
    assert node("config", "check", str(tmp_path / "none.toml")).code == 78


def test_config_path(node: Cli) -> None:
    assert node("config", "path").out == f"{node.datadir}/config.toml\n"


def test_environment_reaches_the_configuration(node: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3MES_API__LISTEN", "127.0.0.1:1")
    assert node("config", "show", "api.listen").out == "127.0.0.1:1\n"


def test_wallets(node: Cli, tmp_path: Path) -> None:
    secret, words = tmp_path / "secret", tmp_path / "words"
    for file, text in ((secret, "correct horse"), (words, WORDS)):
        file.write_text(text)
        file.chmod(0o600)
    options = ("--passphrase-file", str(secret))
    assert node("wallet", "create", "spare", *options).code == 0
    again = node("wallet", "create", "spare", *options)
    assert again.code == 73
    assert "nothing was overwritten" in again.err
    ran = node("wallet", "import", "old", "--words-file", str(words), *options)
    assert ran.code == 0
    found = {one["name"]: one for one in json.loads(node("wallet", "list", "--json").out)}
    assert sorted(found) == ["default", "old", "spare"]
    assert found["old"]["address"].startswith("remes1")
    assert (found["old"]["backed_up"], found["spare"]["backed_up"]) == (True, False)
    assert found["old"]["address"] in node("wallet", "show", "old").out
    assert "abandon" not in ran.out + ran.err


@pytest.mark.parametrize("name", ["../x", "a/b", "x" * 65])
def test_wallet_names_are_no_paths(node: Cli, name: str) -> None:
    assert node("wallet", "show", name).code in (2, 66)
    assert node("wallet", "create", name, "--passphrase-file", "/none").code == 2


def test_missing_wallet(node: Cli) -> None:
    ran = node("wallet", "show", "nobody")
    assert ran.code == 66
    assert ran.err.startswith("error R3-WALLET-004: ")


def test_words_of_a_wrong_mnemonic_are_not_repeated(node: Cli, tmp_path: Path) -> None:
    words, secret = tmp_path / "words", tmp_path / "secret"
    for file, text in ((words, WORDS.replace("art", "zebra")), (secret, "correct horse")):
        file.write_text(text)
        file.chmod(0o600)
    ran = node(
        "wallet", "import", "x", "--words-file", str(words), "--passphrase-file", str(secret)
    )
    assert ran.code == 65
    assert "zebra" not in ran.err


def test_backup_needs_a_terminal(node: Cli) -> None:
    ran = node("wallet", "backup")
    assert (ran.code, ran.out) == (77, "")
    assert "terminal" in ran.err


def test_backup_shows_the_words_and_asks_for_some(
    node: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passphrase, "is_terminal", lambda: True)

    def prompt(text: str, **_options: object) -> str:
        return "a b c" if "Type words" in text else ""

    monkeypatch.setattr("typer.prompt", prompt)
    ran = node("wallet", "backup")
    assert ran.code == 65
    assert "not the words" in ran.err
    assert not json.loads(node("wallet", "show", "--json").out)["backed_up"]
    words = dict(re.findall(r"(\d+)\. ([a-z]+)", ran.err))
    assert sorted(map(int, words)) == list(range(1, 25))

    def prompt_again(text: str, **_options: object) -> str:
        if "Type words" not in text:
            return ""
        return " ".join(words[number] for number in re.findall(r"\d+", text))

    monkeypatch.setattr("typer.prompt", prompt_again)
    ran = node("wallet", "backup")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("Backup recorded 2")
    assert json.loads(node("wallet", "show", "--json").out)["backed_up"]
    assert "next: r3mes run" in node("init").out


def test_run_without_init(cli: Cli) -> None:
    ran = cli("run")
    assert ran.code == 78
    assert "r3mes init" in ran.err


def test_run_with_a_wrong_passphrase(node: Cli) -> None:
    (node.datadir / "wallets" / "default.passphrase").write_text("wrong one\n")
    ran = node("run")
    assert ran.code == 77
    assert ran.err.startswith("error R3-WALLET-002: ")


async def test_a_second_run_is_refused_before_the_wallet_is_opened(node: Cli) -> None:
    (node.datadir / "wallets" / "default.passphrase").write_text("wrong one\n")
    before = files(node.datadir)
    async with open_store(node.datadir):
        ran = await trio.to_thread.run_sync(node, "run")
    assert (ran.code, "R3-STORE-006" in ran.err) == (75, True)
    assert files(node.datadir).get("audit.log") == before.get("audit.log")


def test_run_beyond_loopback(node: Cli) -> None:
    ran = node("run", "--listen", "0.0.0.0:7331")
    assert ran.code == 78
    assert "flag --listen" in ran.err


def test_the_program_is_named_as_a_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "a venv" / "r3mes"
    own.parent.mkdir()
    own.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    assert program(own) == f"'{own}'"
    assert program(Path("r3mes/node/__main__.py")) == "r3mes"
    monkeypatch.setenv("PATH", str(own.parent))
    assert program(own) == "r3mes"


def test_two_inits_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "r3mes.node", "--datadir", str(tmp_path / "node"), "init"]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum(out.count("Created") for out, _ in told) == 5
    assert sum(out.count("Kept") for out, _ in told) == 4


def test_init_where_nobody_can_write(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cli.datadir = tmp_path / "file" / "node"
    ran = cli("init")
    assert ran.code == 78
    assert ran.err.startswith(f"error R3-CONF-001: {cli.datadir}: Not a directory. ")
    assert "--datadir" in ran.err


def test_config_set_and_unset(node: Cli) -> None:
    file = node.datadir / "config.toml"
    before = file.read_text()
    ran = node("config", "set", "log.level", "debug")
    assert (ran.code, "in force when the node starts" in ran.out) == (0, True)
    assert node("config", "set", "p2p.listen", "127.0.0.1:1,127.0.0.1:2").code == 0
    assert node("config", "show", "p2p.listen").out == '["127.0.0.1:1","127.0.0.1:2"]\n'
    assert before.splitlines()[0] in file.read_text()  # comments stay
    assert node("config", "unset", "log.level").out.startswith('log.level = "info": in force')
    assert node("config", "show", "log.level").out == "info\n"


@pytest.mark.parametrize(
    ("key", "value"), [("limits.slots", "0"), ("limits.slot", "1"), ("models", "x"), ("log", "x")]
)
def test_config_set_refuses_nonsense(node: Cli, key: str, value: str) -> None:
    before = files(node.datadir)
    ran = node("config", "set", key, value)
    assert (ran.code, ran.out) == (78, "")
    assert "config.toml:" not in ran.err  # there is no such line in the file
    assert files(node.datadir) == before


def test_config_set_on_a_full_disk(node: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(node.datadir)
    monkeypatch.setattr("os.fsync", full)
    ran = node("config", "set", "log.level", "debug")
    assert (ran.code, ran.err.startswith("error R3-STORE-003: ")) == (74, True)
    assert files(node.datadir) == before
