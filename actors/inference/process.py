"""The worker process as the daemon sees it: started, spoken to, killed.

It is started by a plain fork and exec in the daemon's own thread.  ``trio.run_process`` would do
it in a helper thread that ends after ten idle seconds, and the worker asks to be killed when the
thread that started it ends (`r3mes.actors.inference.sandbox.die_with_parent`).
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from r3mes.actors.inference.protocol import Command, Report, Unframer, decode_report, frame
from r3mes.errors import EngineCrashed, WireError

logger = logging.getLogger(__name__)


def python(module: str) -> tuple[str, ...]:
    """What starts a worker that is a module of ours."""
    return (sys.executable, "-P", "-m", module)


COMMAND = python("r3mes.actors.inference.worker")
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TZ")
"""Of the daemon's environment; everything else may hold secrets."""
SET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the driver's own tools number them
}
LAST_LINES = 20
LAST_WORDS_S, POLL_S = 2.0, 0.05
"""How long a worker whose pipes are closed may take to end before nobody waits for its status."""
READ_BYTES = 65536
PROGRESS = re.compile(r"\d+%\|")
"""In the bars that libraries draw: they say nothing about an end."""


class Worker:
    """One running worker; see `open_worker`."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        if popen.stdin is None or popen.stdout is None or popen.stderr is None:
            raise ValueError("the worker needs its three pipes")
        self._popen = popen
        self._commands = trio.lowlevel.FdStream(os.dup(popen.stdin.fileno()))
        self._reports = trio.lowlevel.FdStream(os.dup(popen.stdout.fileno()))
        self._errors = trio.lowlevel.FdStream(os.dup(popen.stderr.fileno()))
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            pipe.close()
        self._unframer = Unframer()
        self._received: deque[Report] = deque()
        self._last_words: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def pid(self) -> int:
        return self._popen.pid

    async def send(self, command: Command) -> None:
        """Give a command; one task at a time.

        Raises:
            EngineCrashed: the worker has gone.
        """
        try:
            await self._commands.send_all(frame(command))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise EngineCrashed(self.epitaph()) from None

    async def receive(self) -> Report:
        """The next report.

        Raises:
            EngineCrashed: the worker has gone, or sent what no worker sends.
        """
        while not self._received:
            data = await self._reports.receive_some(READ_BYTES)
            if not data:
                await self._hear_last_words()
                raise EngineCrashed(self.epitaph())
            try:
                self._received.extend(map(decode_report, self._unframer.feed(data)))
            except WireError as error:
                raise EngineCrashed(error.detail) from None
        return self._received.popleft()

    async def _hear_last_words(self) -> None:
        """Wait a little for how it ended, and for what it wrote about that."""
        with trio.move_on_after(LAST_WORDS_S):
            while self._popen.poll() is None:  # noqa: ASYNC110  a process tells no event
                await trio.sleep(POLL_S)
        await trio.sleep(POLL_S)

    def epitaph(self) -> str:
        """Why it died, as far as that is known."""
        code = self._popen.poll()
        how = (
            "closed its pipes"
            if code is None
            else f"ended by signal {-code}"
            if code < 0
            else f"ended with status {code}"
        )
        # Who is killed from outside says nothing about it: older words would mislead.
        words = self._last_words[-1] if self._last_words and code != -signal.SIGKILL else ""
        return f"the worker {how}" + (f": {words}" if words else "")

    def memory_bytes(self) -> int:
        """What it occupies, see `memory_bytes_of`."""
        return memory_bytes_of(self.pid)

    def cpu_s(self) -> float:
        """Processor time that all its threads have used so far; 0 when it is gone."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0.0
        fields = stat.rpartition(")")[2].split()  # from the third on; the name may have spaces
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def listen_to_errors(self) -> None:
        """Pass on what it writes to standard error to the log; until it ends."""
        rest = b""
        while data := await self._errors.receive_some(READ_BYTES):
            *lines, rest = (rest + data)[-READ_BYTES:].split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                words = (one for one in text.split("\r") if one and not PROGRESS.search(one))
                self._last_words.extend(words)
                logger.debug("worker %d: %s", self.pid, text)

    async def end(self) -> None:
        """Kill it and wait until it is gone; nothing it holds needs a farewell."""
        self._popen.kill()
        for pipe in (self._commands, self._reports, self._errors):
            pipe.close()
        await trio.to_thread.run_sync(self._popen.wait)


def memory_bytes_of(pid: int) -> int:
    """What a process occupies by itself: neither mapped files nor GPU memory; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    parts = [fields.get(name, "0 kB").split()[0] for name in ("RssAnon", "RssShmem")]
    return 1024 * sum(map(int, parts))


@asynccontextmanager
async def open_worker(
    command: Sequence[str], environment: Mapping[str, str]
) -> AsyncIterator[Worker]:
    """A fresh worker process, killed on exit.

    Args:
        command: its program and arguments.
        environment: of the daemon; only `PASSED_ON` reaches the worker.
    """
    passed = {name: environment[name] for name in PASSED_ON if name in environment}
    with TemporaryDirectory(prefix="r3mes-worker-") as scratch:
        popen = subprocess.Popen(  # noqa: ASYNC220, S603  in this thread, see above; no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**passed, **SET, "HOME": scratch, "TMPDIR": scratch},
            cwd=scratch,
            start_new_session=True,  # Ctrl-C at the terminal is for the daemon, which ends it
        )
        worker = Worker(popen)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.listen_to_errors)
                yield worker
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await worker.end()
