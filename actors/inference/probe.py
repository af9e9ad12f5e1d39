"""What torch can do on this machine, tried out in a process that is confined as a worker is.

``python -m r3mes.actors.inference.probe`` prints it as JSON; `probe` runs that and reads it.
The last step forbids the process memory that is written and then executed, which a service
manager's MemoryDenyWriteExecute does as well: torch compiles its bf16 kernels into such memory.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.process import PASSED_ON, SET
from r3mes.actors.inference.sandbox import confine
from r3mes.errors import EngineError

COMMAND = (sys.executable, "-P", "-m", "r3mes.actors.inference.probe")
TIMEOUT_S = 120.0
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
SIZE, OTHER_SIZE = 512, 320
"""Of the matrices; another size needs another kernel, which is compiled anew."""


class Probed(msgspec.Struct, frozen=True):
    """What was found.

    Args:
        torch: its version.
        gpus: their names, as torch sees them.
        no_gpu: why there are none; empty if there are.
        bf16_ms: of one product of matrices on the device that `auto` takes; None if it failed.
        bf16_error: why it failed.
        guarded: whether it also works without memory that is written and executed; None where
            this kernel cannot forbid that.
    """

    torch: str
    gpus: tuple[str, ...]
    no_gpu: str
    bf16_ms: float | None
    bf16_error: str
    guarded: bool | None


def probe() -> Probed:
    """Try it out; takes the seconds that importing torch takes.

    Raises:
        EngineError: the process could not say anything.
    """
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="r3mes-probe-") as scratch:
        try:
            ran = subprocess.run(  # noqa: S603  our own module; no shell
                COMMAND,
                capture_output=True,
                check=False,
                timeout=TIMEOUT_S,
                cwd=scratch,
                env={**passed, **SET, "HOME": scratch, "TMPDIR": scratch},
            )
            return msgspec.json.decode(ran.stdout, type=Probed)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"torch could not be tried out: {error}") from None
        except msgspec.MsgspecError:
            words = ran.stderr.decode(errors="replace").strip().splitlines()
            why = words[-1] if words else f"it ended with status {ran.returncode}"
            raise EngineError(f"torch could not be tried out: {why}") from None


def measure() -> Probed:
    """The probe itself; leaves its process confined."""
    confine(MODEL_DIR)
    import torch

    no_gpu = _why_no_gpu(torch)
    device = "cpu" if no_gpu else "cuda"
    took, error = _product(torch, device, SIZE)
    guarded = None
    if took is not None and _forbid_written_code():
        guarded = _product(torch, "cpu", OTHER_SIZE)[0] is not None
    gpus = [] if no_gpu else map(torch.cuda.get_device_name, range(torch.cuda.device_count()))
    return Probed(str(torch.__version__), tuple(gpus), no_gpu, took, error, guarded)


def _product(torch: Any, device: str, size: int) -> tuple[float | None, str]:
    """Milliseconds of the second of two products, or why there is none."""
    try:
        left = torch.ones(size, size, dtype=torch.bfloat16, device=device)
        torch.nn.functional.linear(left, left)
        started = time.perf_counter()
        float(torch.nn.functional.linear(left, left)[0, 0])
    except RuntimeError as error:
        return None, str(error).strip().splitlines()[0]
    return round((time.perf_counter() - started) * 1000, 2), ""


def _why_no_gpu(torch: Any) -> str:
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of torch is for the CPU alone"
    device = Path("/dev/nvidia0")
    if not device.exists():
        return "there is no NVIDIA device (no GPU, or no driver for it)"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"this user may not open {device}"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return "torch sees none"


def _forbid_written_code() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return not libc.prctl(PR_SET_MDWE, ctypes.c_ulong(REFUSE_EXEC_GAIN), 0, 0, 0)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure()))
