"""Several GPUs, as the driver tells of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from msgspec.structs import replace

from r3mes.config.schema import Config, Engine, Model
from r3mes.node.placing import parsed, placed_settings


def model(path: Path, size: int) -> Model:
    path.mkdir()
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    return Model(id=str(path))


def test_models_are_spread_by_what_is_free_unless_a_device_was_chosen(tmp_path: Path) -> None:
    models = model(tmp_path / "large", 3000), model(tmp_path / "small", 1000)
    free = {"cuda:0": 3000, "cuda:1": 5000}

    def devices(device: str, free: dict[str, int]) -> list[str]:
        config = Config(models=(*models, Model(id="no/where")), engine=Engine(device=device))
        return [one.device for one in placed_settings(config, free)]

    assert devices("auto", free) == ["cuda:1", "cuda:0", "cuda:0"]
    assert devices("auto", {"cuda:0": 9000}) == ["auto"] * 3
    assert devices("cuda:1", free) == ["cuda:1"] * 3
    assert devices("cpu", free) == ["cpu"] * 3


def test_a_model_of_openvino_takes_no_gpu(tmp_path: Path) -> None:
    there = replace(model(tmp_path / "model", 3000), engine="openvino")
    settings = placed_settings(Config(models=(there,)), {"cuda:0": 3000, "cuda:1": 5000})
    assert [one.device for one in settings] == ["auto"]


def test_what_the_driver_tells() -> None:
    assert parsed("0, 81000\n1, 24000\n\n") == {"cuda:0": 81000 << 20, "cuda:1": 24000 << 20}
    with pytest.raises(ValueError, match="invalid literal"):
        parsed("No devices, were found")
