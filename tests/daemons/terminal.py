"""Commands as a person runs them: in a shell on a terminal, questions answered by typing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

PATIENCE_S = 90.0
"""For a command to end or to get somewhere on a busy machine."""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Typist: TypeAlias = Callable[[str], str | None]
"""What to type at the end of this text; None while nothing is asked."""


class Shown:
    """One command and all that it showed; leaving the block ends it as Ctrl-C does.

    Args:
        command: for the shell.
        environment: all of it.
        typist: answers questions.
    """

    def __init__(
        self, command: str, environment: Mapping[str, str], folder: Path, typist: Typist
    ) -> None:
        self._screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=terminal, stdout=terminal, stderr=terminal,
            env=dict(environment), cwd=folder, start_new_session=True,
            preexec_fn=_own_the_terminal,
        )  # fmt: skip
        os.close(terminal)
        self._typist, self._answered, self.text = typist, 0, ""

    def __enter__(self) -> Shown:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        os.close(self._screen)

    def wait(self) -> int:
        """Show and answer until it ends; its status."""
        while self._look():
            pass
        return self._process.wait(PATIENCE_S)

    def wait_for(self, words: str) -> None:
        """Show and answer until ``words`` are on the screen."""
        while words not in self.text:
            assert self._look(), self.text

    def interrupt(self) -> int:
        """Press Ctrl-C; the status with which it ends."""
        os.write(self._screen, b"\x03")
        return self.wait()

    def _look(self) -> bool:
        """Take what is shown next; False when there will be nothing more."""
        ready, _, _ = select.select([self._screen], [], [], PATIENCE_S)
        assert ready, f"nothing happens after: {self.text}"
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # the terminal's other end is closed
            return False
        self.text += ESCAPES.sub("", data.decode(errors="replace")).replace("\r\n", "\n")
        if (answer := self._typist(self.text[self._answered :])) is not None:
            self._answered = len(self.text)
            os.write(self._screen, answer.encode())
        return bool(data)


def _own_the_terminal() -> None:
    """Passwords are read from the controlling terminal, whatever stdin is."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
