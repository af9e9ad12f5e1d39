"""Where the parts of a service are, on this machine or in the tree of another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import r3mes
from r3mes.config.paths import SYSTEM_CONFIG, SYSTEM_DATA
from r3mes.errors import ServiceError

ACCOUNT = "r3mes"
UNIT = "r3mes.service"
ADMIN_SOCKET = Path("/run/r3mes/admin.sock")
API_KEY = "api-key"
CREDENTIAL = Path("/etc/credstore.encrypted/r3mes.wallet-passphrase")
GPU_DROP_IN, CREDENTIAL_DROP_IN = "10-gpu.conf", "50-credential.conf"


def shipped(name: str) -> str:
    """The text of a file in `systemd/` as this package has it."""
    return (Path(r3mes.__file__).parent / "systemd" / name).read_text()


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a service's files.

    Args:
        root: the tree that they are in; what stands in the files counts from its own ``/``.
        live: whether the systemd of this machine is to know of it now.
    """

    root: Path = Path("/")
    live: bool = True

    def at(self, path: Path | str) -> Path:
        """The path on this machine of what is ``path`` in the tree."""
        return self.root / str(path).lstrip("/")

    @property
    def config(self) -> Path:
        return self.at(SYSTEM_CONFIG)

    @property
    def data(self) -> Path:
        return self.at(SYSTEM_DATA)

    @property
    def node_key(self) -> Path:
        """A node is where this is."""
        return self.data / "keys" / "node.key"

    @property
    def unit(self) -> Path:
        return self.at(f"/etc/systemd/system/{UNIT}")

    def drop_in(self, name: str) -> Path:
        return self.unit.with_name(f"{UNIT}.d") / name

    @property
    def sysusers(self) -> Path:
        return self.at("/etc/sysusers.d/r3mes.conf")

    @property
    def tmpfiles(self) -> Path:
        return self.at("/etc/tmpfiles.d/r3mes.conf")

    @property
    def credential(self) -> Path:
        return self.at(CREDENTIAL)

    def in_root(self, program: str) -> list[str]:
        """The beginning of a command of systemd that works on this tree."""
        return [program] if self.root == Path("/") else [program, f"--root={self.root}"]

    def account(self) -> tuple[int, int]:
        """User and group of the service.

        Raises:
            ServiceError: there is no such account.
        """
        for name, _, uid, gid, *_ in self._lines("/etc/passwd"):
            if name == ACCOUNT:
                return int(uid), int(gid)
        raise ServiceError(f"there is no account {ACCOUNT} in {self.at('/etc/passwd')}")

    def has_group(self, name: str) -> bool:
        """Whether there is a group of this name."""
        return any(found == name for found, *_ in self._lines("/etc/group"))

    def has_gpu(self) -> bool:
        """Whether a driver shows the device of a GPU that models can run on."""
        return any(self.at("/dev").glob("nvidia[0-9]*")) or self.at("/dev/kfd").exists()

    def _lines(self, path: str) -> Iterator[list[str]]:
        file = self.at(path)
        if file.exists():
            yield from (line.split(":") for line in file.read_text().splitlines())
