"""What a model will take and what there is, and weights that are not what they should be."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from r3mes.actors.inference import memory
from r3mes.actors.inference.memory import free_bytes, needed_bytes
from r3mes.actors.inference.weights import read_headers
from r3mes.errors import ModelInvalid

TENSORS = {
    "a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]},
    "ids": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
    "__metadata__": {"format": "pt"},
}


def weights(path: Path, tensors: object = TENSORS, data: int = 40) -> Path:
    header = json.dumps(tensors).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(data))
    return path


@pytest.mark.parametrize(
    ("dtype", "needed"), [("auto", 40), ("bfloat16", 40), ("float16", 40), ("float32", 64)]
)
def test_the_headers_tell_what_the_weights_take(tmp_path: Path, dtype: str, needed: int) -> None:
    assert needed_bytes(weights(tmp_path), dtype) == needed


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cut off"),
        (b"broken", "cut off"),
        (struct.pack("<Q", 2**63) + b"{}", "cut off"),
        (struct.pack("<Q", 2) + b"[]", "corrupt"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "corrupt"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "corrupt"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "corrupt"),
        (struct.pack("<Q", 2) + b"{}more", "has 14 bytes and should have 10"),
    ],
)
def test_weights_that_are_not_of_the_format(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelInvalid, match=why):
        read_headers(tmp_path)


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"model\.safetensors cannot be loaded: it has"):
        read_headers(weights(tmp_path, data=39))


def test_a_container_has_what_its_narrowest_cgroup_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "slice" / "node.service"
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=systemd:/x\n0::/slice/node.service\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     8000 kB\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", str(tmp_path / "own"))
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert free_bytes() == 8000 * 1024
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("5000\n")
    (inner.parent / "memory.current").write_text("4000\n")
    (inner.parent / "memory.stat").write_text("anon 3000\ninactive_file 700\n")
    assert free_bytes() == 5000 - 4000 + 700
