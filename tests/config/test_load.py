"""Where values come from, and what is said about wrong ones."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from r3mes.config.load import OTEL_LIBRARIES, Loaded, load, served_name
from r3mes.config.reference import PAGE, config_page
from r3mes.config.sources import from_file
from r3mes.errors import ConfigError, InsecureFile

Write: TypeAlias = Callable[..., Loaded]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, env: Any = None, flags: Any = None) -> Loaded:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return load(file=file, env=env or {}, flags=flags or {})

    return write


def test_later_sources_win_and_origins_are_known(write: Write, tmp_path: Path) -> None:
    text = '[api]\nlisten = "127.0.0.1:1"\nmax_body_bytes = 2000\n\n[limits]\nslots = 3\n'
    env = {"R3MES_API__LISTEN": "127.0.0.1:2", "R3MES_LIMITS__SLOTS": "4", "HOME": "/x"}
    loaded = write(text, env, {"api.listen": "127.0.0.1:3", "log.level": None})
    assert loaded.config.api.listen == "127.0.0.1:3"
    assert loaded.config.api.max_body_bytes == 2000
    assert loaded.config.limits.slots == 4
    assert loaded.origins["api.listen"] == "flag --listen"
    assert loaded.origins["limits.slots"] == "env R3MES_LIMITS__SLOTS"
    assert loaded.origins["api.max_body_bytes"] == f"file {tmp_path}/config.toml:3"
    assert loaded.origins["log.level"] == "default"


def test_defaults_without_a_file(tmp_path: Path) -> None:
    loaded = load(file=tmp_path / "none.toml", env={}, flags={})
    assert loaded.config.api.listen == "127.0.0.1:7331"
    assert loaded.config.models == ()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.config.api.key_file == tmp_path / "api-key"


def test_lists_and_paths(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    loaded = write(
        '[wallet]\npassphrase_file = "sub/secret"\n',
        {"R3MES_P2P__LISTEN": "127.0.0.1:0, [::1]:4", "R3MES_NODE__DATADIR": "data"},
        {"p2p.announce": '["/ip4/1.2.3.4/tcp/1"]'},
    )
    assert loaded.config.p2p.listen == ("127.0.0.1:0", "[::1]:4")
    assert loaded.config.p2p.announce == ("/ip4/1.2.3.4/tcp/1",)
    assert loaded.config.wallet.passphrase_file == tmp_path / "sub/secret"
    assert loaded.config.node.datadir == Path("/data")


def test_adapters(write: Write) -> None:
    text = "model = 'x'\nname = 'a'\nid = 'y/z'\nprice_prompt = 7"
    loaded = write(f"{ADAPTED}[[adapters]]\n{text}")
    (adapter,) = loaded.config.adapters
    assert (adapter.name, adapter.price_prompt, adapter.price_completion) == ("a", 7, None)
    assert loaded.origins["adapters"].endswith("config.toml:3")
    assert loaded.config.limits.adapters == 8


def test_models(write: Write) -> None:
    loaded = write('[[models]]\nid = "builtin"\n[[models]]\nid = "a/b"\nname = "c"\nprice_prompt=0')
    assert [served_name(model) for model in loaded.config.models] == ["builtin", "c"]
    assert loaded.config.models[1].price_prompt == 0
    assert loaded.origins["models"].endswith("config.toml:1")


UPSTREAM = '[[models]]\nid = "org/big"\nupstream_url = "http://127.0.0.1:8000/v1"\n'


def test_a_model_behind_a_server(write: Write, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    loaded = write(f'{UPSTREAM}tokenizer = "files"\nupstream_key_file = "key"\nslots = 64\n')
    (model,) = loaded.config.models
    assert (served_name(model), model.slots) == ("big", 64)
    assert (model.tokenizer, model.upstream_key_file) == (tmp_path / "files", tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(InsecureFile):
        write(f'{UPSTREAM}tokenizer = "files"\nupstream_key_file = "key"\n')


ADAPTED = "[[models]]\nid = 'x'\n"
WRONG = [
    (UPSTREAM, ("org/big", "needs tokenizer")),
    (f'{UPSTREAM}tokenizer = "t"\nengine = "torch"', ('"torch" does not go with upstream_url',)),
    ('[[models]]\nid = "a/b"\nengine = "upstream"', ("needs upstream_url",)),
    ('[[models]]\nid = "a/b"\ntokenizer = "t"', ("are for a model with upstream_url",)),
    ('[[models]]\nid = "a/b"\nupstream_url = "http://u:p@h/v1"', ("without a password",)),
    ('[[models]]\nid = "a/b"\nupstream_url = "file:///etc/passwd"', ("a URL",)),
    ('[api]\n\nlistn = "127.0.0.1:1"', ("config.toml:3", "api.listn", "did you mean listen")),
    ("[apy]\n", ("config.toml:1", "'apy'", "did you mean api")),
    ('[node]\nlisten = "x"', ("config.toml:2", "node.listen", "api.listen exists")),
    ("[api]\nlisten = 5", ("config.toml:2", "api.listen", "is 5", "host:port")),
    ('[api]\nlisten = "7331"', ("'7331'", "host:port")),
    ('[node]\nchain_id = "a-network\\n"', ("config.toml:2", "up to 50 letters")),
    ('[metrics]\nlisten = "\\n"', ("config.toml:2", "host:port")),
    ('[api]\nlisten = "0.0.0.0:7331"', ("config.toml:2", "unencrypted", "api.insecure")),
    ('[api]\nmax_body_bytes = "1000"', ("'1000'", "an integer from 1024 to 1044480")),
    ("[api]\nmax_body_bytes = 9999999", ("an integer from 1024 to 1044480",)),
    ("[api]\nmax_body_bytes = true", ("True", "an integer")),
    ("[api]\ninsecure = 1", ("true or false",)),
    ('[api]\nallowed_hosts = "x"', ("a list of texts",)),
    ('[p2p]\nbootstrap = ["/ip4/1.2.3.4/tcp/1"]', ("with a peer id",)),
    ('[p2p]\nannounce = ["foo"]', ("p2p.announce", "multiaddresses, such as /ip4/")),
    ('[p2p]\nannounce = ["/ip4/1.2.3.4/tcp/70000"]', ("p2p.announce",)),
    ('[api]\nlisten = "127.0.0.1:65536"', ("host:port",)),
    ('[p2p]\nlisten = ["0.0.0.0:99999"]', ("addresses such as",)),
    ('[api]\nallowed_origins = ["chat.example"]', ("origins, such as https://",)),
    ('[log]\nlevel = "loud"', ("one of debug, info, warning, error",)),
    ("[limits]\ndrain_seconds = nan", ("a number from 0 to 3600",)),
    ("[limits]\nslots = 0", ("an integer from 1 to 1024",)),
    ('[wallet]\nname = "../x"', ("'../x'", "letters")),
    ('[node]\ndatadir = ""', ("a path",)),
    ("api = 5", ("write [api]",)),
    ("[models]\nid = 1", ("write [[models]]",)),
    ("[[models]]\nname = 'x'", ("models[0] has no id",)),
    ("[[models]]\nid = 'x'\nprise = 1", ("models.prise",)),
    ("[[models]]\nid = 'x'\nprice_prompt = -1", ("models[0].price_prompt", "-1")),
    ("[[models]]\nid = 'x'\n[[models]]\nid = 'y/x'", ("two models are called 'x'",)),
    ("[[models]]\nid = './my model'", ("cannot be called 'my model'", "Give it a name")),
    ("[adapters]\nid = 1", ("write [[adapters]]",)),
    ("[[adapters]]\nmodel = 'x'\nid = 'y'", ("adapters[0] has no name",)),
    (ADAPTED + "[[adapters]]\nmodel = 'y'\nname = 'a'\nid = 'z'", ("'y', which is not served",)),
    (ADAPTED + "[[adapters]]\nmodel = 'x'\nname = 'a:b'\nid = 'z'", ("adapters[0].name",)),
    (ADAPTED + "[[adapters]]\nmodel = 'x'\nname = 'a'\nid = 'z'\nhash = 'AB'", ("64 hex",)),
    (ADAPTED + "[[adapters]]\nmodel = 'x'\nname = 'a'\nid = 'z'\n" * 2, ("are called 'x:a'",)),
    (
        ADAPTED + "".join(f"[[adapters]]\nmodel='x'\nname='a{n}'\nid='z'\n" for n in range(32)),
        ("32 models and adapters at most, not 33",),
    ),
    ("\n".join(f"[[models]]\nid = 'x{n}'" for n in range(33)), ("32 models at most, not 33",)),
    ("[node]\nchain_id = 'r3mes dev'", ("up to 50 letters",)),
    ("[api", ("is not TOML", "Expected ']'")),
    ("a = " + "[" * 5000, ("is not TOML",)),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_wrong_file(write: Write, text: str, told: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        write(text)
    message = str(caught.value)
    assert message.startswith("R3-CONF-001: ")
    assert [part for part in told if part not in message] == []


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"R3MES_API__LISTN": "x"}, ("env R3MES_API__LISTN", "did you mean listen")),
        ({"R3MES_APY__LISTEN": "x"}, ("env R3MES_APY__LISTEN", "did you mean api")),
        ({"R3MES_LIMITS__SLOTS": "many"}, ("env R3MES_LIMITS__SLOTS", "'many'", "an integer")),
        ({"R3MES_API_LISTEN": "x"}, ("env R3MES_API_LISTEN", "mean R3MES_API__LISTEN")),
        ({"R3MES_WALET_NAME": "x"}, ("mean R3MES_WALLET__NAME",)),
        ({"R3MES_MODELS__ID": "x"}, ("models can only be set in the file",)),
    ],
)
def test_wrong_environment(write: Write, env: dict[str, str], told: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        write("", env)
    assert [part for part in told if part not in str(caught.value)] == []


def test_variables_of_others_are_let_pass(write: Write) -> None:
    env = {"R3MES_SERVICE_HOST": "10.0.0.1", "R3MES_API_PORT": "tcp://10.0.0.1:7331"}
    write("", {**env, "R3MES_CONFIG": "/x", "R3MES_PASSPHRASE": "x"})


def test_wrong_flag(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"--set limits.slotz.*did you mean slots"):
        write("", {}, {"limits.slotz": "1"})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_secret_that_others_can_reach(write: Write, tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse")
    secret.chmod(mode)
    with pytest.raises(InsecureFile, match=f"mode 0{mode:o}") as caught:
        write('[wallet]\npassphrase_file = "passphrase"')
    assert caught.value.do == f"run `chmod 600 {secret}`"
    assert "horse" not in str(caught.value)
    secret.chmod(0o600)
    write('[wallet]\npassphrase_file = "passphrase"')


def test_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file=file, env={}, flags={})
    with pytest.raises(ConfigError, match="directory"):
        load(file=tmp_path, env={}, flags={})


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == config_page(), "run python -m r3mes.config.reference"


def test_import_is_light() -> None:
    code = "import sys, r3mes.config.load; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"trio", "pydantic", "torch", "httpx", "fastapi"} & set(out)


def test_reading_is_fast(write: Write) -> None:
    write("")
    started = time.process_time()
    write('[api]\nlisten = "127.0.0.1:1"')
    assert time.process_time() - started < 0.1


COLLECTOR = "http://127.0.0.1:4318/v1/traces"


def test_traces_are_off_until_a_collector_is_named(write: Write) -> None:
    assert write("").config.otel.endpoint is None
    assert write(f'[otel]\nendpoint = "{COLLECTOR}"\n').config.otel.endpoint == COLLECTOR


@pytest.mark.parametrize(
    "endpoint", ["", "localhost:4318", "grpc://x:4317", "http://user:secret@x/v1/traces", "http://"]
)
def test_a_collector_is_named_by_a_whole_url_without_a_password(
    write: Write, endpoint: str
) -> None:
    with pytest.raises(ConfigError, match=r"otel\.endpoint"):
        write(f'[otel]\nendpoint = "{endpoint}"\n')


@pytest.mark.parametrize("missing", OTEL_LIBRARIES)
def test_a_collector_without_the_library_says_what_to_install(
    write: Write, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert write("").config.otel.endpoint is None
    with pytest.raises(ConfigError, match=r"config.toml:2: .*pip install 'r3mes\[otel\]'"):
        write(f'[otel]\nendpoint = "{COLLECTOR}"\n')


def test_a_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ConfigError, match="cannot be read by this user") as refused:
        list(from_file(tmp_path / "config.toml"))
    assert "as the user of the node" in refused.value.do
