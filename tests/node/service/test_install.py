"""The steps of `r3mes service install`, taken in a tree of the test's own."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from r3mes.config.load import load
from r3mes.errors import ConfigError, ServiceError, ServiceHasNode
from r3mes.node.service.install import Source, installation, removal
from r3mes.node.service.places import Places
from tests.node.service.conftest import with_systemd

PROGRAM = Path("/usr/local/bin/r3mes")


def install(places: Places, source: Source | None = None, program: Path = PROGRAM) -> list[str]:
    return [step.do() for step in list(installation(places, program, source))]


def files(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


@pytest.fixture
def image(tree: Path) -> Places:
    """The places of a service in the tree of another machine."""
    return Places(tree, live=False)


@with_systemd
def test_a_new_node_for_the_account_alone(image: Places) -> None:
    install(image)
    uid, gid = image.account()
    made = [image.data, *image.data.rglob("*")]
    assert {(one.stat().st_uid, one.stat().st_gid) for one in made} == {(uid, gid)}
    assert {stat.S_IMODE(one.stat().st_mode) for one in made} == {0o700, 0o600}
    names = {str(one.relative_to(image.data)) for one in made}
    assert names >= {"keys/node.key", "wallets/default.json", "api-key"}
    config = load(file=image.config, env={}, flags={}).config
    assert config.node.datadir == Path("/var/lib/r3mes")
    assert config.api.admin_socket == Path("/run/r3mes/admin.sock")
    assert stat.S_IMODE(image.config.stat().st_mode) == 0o644
    assert image.at("/etc/systemd/system/multi-user.target.wants/r3mes.service").is_symlink()


@with_systemd
def test_the_unit_is_sound(image: Places) -> None:
    image.at("/dev").mkdir()
    image.at("/dev/nvidia0").touch()
    install(image, program=Path(sys.executable))
    assert image.drop_in("10-gpu.conf").exists()
    said = analyze("verify", str(image.unit))
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    score = re.search(
        r"exposure level for r3mes\.service: ([\d.]+)",
        analyze("security", "--offline=true", str(image.unit)).stdout,
    )
    assert score is not None
    assert float(score[1]) <= 1.5


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], check=False, capture_output=True, text=True
    )


@with_systemd
def test_again_changes_nothing(image: Places) -> None:
    install(image)
    before = files(image.root)
    again = install(image)
    assert files(image.root) == before
    assert not [line for line in again if line.startswith(("Wrote", "Made", "Removed"))]


@with_systemd
def test_an_upgrade_keeps_what_the_operator_wrote(image: Places) -> None:
    install(image)
    text = image.config.read_text().replace("[api]", "[api]\nlisten = '127.0.0.1:9'  # mine")
    image.config.write_text(text)
    image.unit.write_text("[Service]\nExecStart=/old\n")
    install(image)
    assert image.config.read_text() == text
    assert "ExecStart=/usr/local/bin/r3mes run" in image.unit.read_text()


@with_systemd
def test_uninstall_leaves_data_and_configuration(image: Places) -> None:
    install(image)
    data, config = files(image.data), image.config.read_text()
    for step in list(removal(image)):
        step.do()
    assert files(image.data) == data
    assert image.config.read_text() == config
    left = [path for path in files(image.root) if "systemd" in path or path.endswith("r3mes.conf")]
    assert left == []
    assert list(removal(image)) == []


@with_systemd
def test_what_systemd_is_told(live: Places, calls: Path) -> None:
    install(live)
    said = calls.read_text().splitlines()
    assert said[0].startswith("systemd-creds encrypt --name=wallet-passphrase - ")
    assert [line.split()[1] for line in said if line.startswith("systemctl")] == [
        "daemon-reload",
        f"--root={live.root}",
        "restart",
    ]
    calls.write_text("")
    for step in list(removal(live)):
        step.do()
    said = calls.read_text().splitlines()
    assert [line.split()[2:] for line in said] == [["disable", "--now", "r3mes.service"], []]


@with_systemd
def test_the_passphrase_is_sealed_and_nowhere_else(live: Places) -> None:
    install(live)
    assert live.credential.read_text().strip()
    assert stat.S_IMODE(live.credential.stat().st_mode) == 0o600
    assert not list(live.data.rglob("*.passphrase"))
    assert live.drop_in("50-credential.conf").exists()


@with_systemd
@pytest.mark.parametrize("of", ["[node]\ndatadir = '/data'\n", "[api]\nlistn = 'x'\n", "["])
def test_a_configuration_that_cannot_be_is_refused_first(image: Places, of: str) -> None:
    image.config.parent.mkdir()
    image.config.write_text(of)
    before = files(image.root)
    with pytest.raises((ServiceError, ConfigError), match=r"node\.datadir|listn|config\.toml"):
        install(image)
    assert files(image.root) == before


@with_systemd
def test_what_is_no_node_is_left_alone(image: Places) -> None:
    image.data.mkdir(parents=True)
    (image.data / "something").touch()
    with pytest.raises(ServiceHasNode, match="not empty"):
        install(image)
