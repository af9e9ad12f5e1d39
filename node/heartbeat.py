"""Feeds systemd's watchdog, as long as every part without which the node is useless answers.

A part answers by whatever it says, also by "the disk is full": only silence counts.  It is asked
from the event loop, so one that is blocked feeds nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import trio

from r3mes.errors import R3mesError

logger = logging.getLogger(__name__)

Probe = Callable[[], Awaitable[object]]
"""Returns once its part has answered; raises if it knows that there will be no answer."""

DEADLINE_S = 10.0
"""How long a part may take to answer."""
AGAIN_S = 1.0
"""After a part was silent the next round comes soon: one miss must not cost the process."""


class Heartbeat:
    """Asks the parts in rounds.

    Args:
        probes: the parts by name.
        interval: seconds between two rounds, half of systemd's patience.
        beat: called after each round in which all of them answered.
    """

    def __init__(
        self, probes: Mapping[str, Probe], *, interval: float, beat: Callable[[], None]
    ) -> None:
        self._probes, self._interval, self._beat = probes, interval, beat
        self.beats = 0
        self.silent: Mapping[str, str] = {}
        """Parts that did not answer in the last round, and why."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on until cancelled."""
        task_status.started()
        while True:
            silent = await self._round()
            self._report(silent)
            if not silent:
                self._beat()
                self.beats += 1
            await trio.sleep(AGAIN_S if silent else self._interval)

    async def _round(self) -> dict[str, str]:
        silent: dict[str, str] = {}
        async with trio.open_nursery() as nursery:
            for name, probe in self._probes.items():
                nursery.start_soon(_ask, name, probe, silent)
        return silent

    def _report(self, silent: Mapping[str, str]) -> None:
        for name in silent.keys() - self.silent.keys():
            logger.error("%s does not answer: %s", name, silent[name])
        for name in self.silent.keys() - silent.keys():
            logger.warning("%s answers again", name)
        self.silent = silent


async def _ask(name: str, probe: Probe, silent: dict[str, str]) -> None:
    silent[name] = f"silent for {DEADLINE_S:g} s"
    with trio.move_on_after(DEADLINE_S):
        try:
            await probe()
        except R3mesError as error:
            silent[name] = error.detail
        else:
            del silent[name]
