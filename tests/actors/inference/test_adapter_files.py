"""Adapters that cannot be used are refused by their files alone, with a reason."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from r3mes.actors.inference.adapter_files import adapted_hash, read_adapter
from r3mes.errors import ModelInvalid, ModelMissing
from r3mes.ids import ModelHash

Save = Callable[..., Path]
LAYERS = {"model.layers.0.self_attn.q_proj": (48, 24), "model.layers.1.mlp.up_proj": (48, 96)}
Q, UP = LAYERS


def describe(directory: Path, **settings: Any) -> Path:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return directory


def test_ranks_and_scales_are_those_of_peft(save: Save) -> None:
    plain = read_adapter(save(LAYERS, r=4, lora_alpha=6)).layers
    assert (plain[Q].rank, plain[Q].inputs, plain[Q].outputs, plain[Q].scale) == (4, 48, 24, 1.5)
    patterns = {"rank_pattern": {"up_proj": 9}, "alpha_pattern": {r"layers\.\d+\.mlp.*": 18}}
    layers = read_adapter(save(LAYERS, r=4, lora_alpha=6, **patterns)).layers
    assert (layers[UP].rank, layers[UP].scale) == (9, 2)
    assert (layers[Q].rank, layers[Q].scale) == (4, 1.5)
    root = read_adapter(save(LAYERS, r=4, lora_alpha=6, use_rslora=True, **patterns)).layers
    assert root[UP].scale == 18 / sqrt(9)


def test_the_hash_is_what_sha256sum_says(save: Save) -> None:
    found = read_adapter(directory := save(LAYERS))
    names = ["adapter_config.json", "adapter_model.safetensors"]
    listing = subprocess.run(["sha256sum", *names], cwd=directory, capture_output=True, check=True)
    assert found.hash == hashlib.sha256(listing.stdout).digest()
    base = ModelHash(b"b" * 32)
    framed = b"r3mes/adapter/v1\0" + b"".join(b"\0\0\0\x20" + part for part in (base, found.hash))
    assert adapted_hash(base, found.hash) == hashlib.sha256(framed).digest()


def test_the_base_may_be_named(save: Save) -> None:
    directory = save(LAYERS, r3mes_base="ab" * 32)
    read_adapter(directory).check_base(ModelHash(b"\xab" * 32))
    with pytest.raises(ModelInvalid, match="made for the model abababababababab"):
        read_adapter(directory).check_base(ModelHash(b"\xac" * 32))
    read_adapter(describe(directory, r3mes_base=None)).check_base(ModelHash(b"\xac" * 32))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"peft_type": "IA3"}, "'IA3' and not LORA"),
        ({"peft_type": None}, "not LORA"),
        ({"use_dora": True}, "'use_dora'"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
        ({"bias": "lora_only"}, "biases"),
        ({"lora_bias": True}, "'lora_bias'"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices'"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication'"),
        ({"target_parameters": ["experts"]}, "'target_parameters'"),
        ({"a_setting_of_next_year": 1}, "'a_setting_of_next_year'"),
        ({"init_lora_weights": "pissa_niter_4"}, "the model's own weights"),
        ({"target_modules": ["k_proj"]}, "no target"),
        ({"r": 5}, "4 and 4 in the weights and 5"),
        ({"rank_pattern": {"q_proj": 8}}, "and 8 in the description"),
        ({"rank_pattern": {"(a+)+(b+)+": 8}}, "too costly"),
        ({"rank_pattern": {"(": 8}}, "no pattern"),
        ({"rank_pattern": [8]}, "no object"),
        ({"lora_alpha": "8"}, "no number"),
        ({"lora_alpha": True}, "no number"),
        ({"lora_alpha": -1}, "no number"),
        ({"r3mes_base": "ab"}, "64 hexadecimal"),
    ],
)
def test_descriptions_of_what_is_not_computed(
    save: Save, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ModelInvalid, match=why):
        read_adapter(describe(save(LAYERS), **settings))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"peft_type": NaN}'])
def test_descriptions_that_are_none(save: Save, text: str) -> None:
    (directory := save(LAYERS)).joinpath("adapter_config.json").write_text(text)
    with pytest.raises(ModelInvalid):
        read_adapter(directory)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "none of LoRA's"),
        (f"base_model.model.{Q}.lora_magnitude_vector", "none of LoRA's"),
        (f"base_model.model.{Q}.base_layer.bias", "none of LoRA's"),
        ("base_model.model.model.layers.5.self_attn.q_proj.lora_A.weight", "two matrices"),
    ],
)
def test_weights_that_belong_to_something_else(save: Save, name: str, why: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    file = save(LAYERS) / "adapter_model.safetensors"
    save_file(load_file(file) | {name: torch.zeros(4, 48)}, file)
    with pytest.raises(ModelInvalid, match=why):
        read_adapter(file.parent)


def test_weights_that_are_damaged(save: Save) -> None:
    file = save(LAYERS) / "adapter_model.safetensors"
    whole = file.read_bytes()
    header = len(whole[8:]).to_bytes(8, "little")
    for damaged in (b"", whole[:7], whole[:100], whole[:-1], whole + b"x", header + whole[8:],
                    b"\xff" * 8 + whole[8:],
                    b"\x02" + bytes(7) + b"[]", b"\x80\x04pickle" * 9):  # fmt: skip
        file.write_bytes(damaged)
        with pytest.raises(ModelInvalid, match=r"cut off|damaged|cannot be read|no safetensors"):
            read_adapter(file.parent)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "I64", "shape": [4, 48], "data_offsets": [0, 1536]},
        {"dtype": "F32", "shape": [-4, -48], "data_offsets": [0, 768]},
        {"dtype": "F32", "shape": [4, True], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4, 48]},
        [],
    ],
)
def test_tensors_of_a_wrong_form(save: Save, tensor: object) -> None:
    header = json.dumps({f"base_model.model.{Q}.lora_A.weight": tensor}).encode()
    file = save(LAYERS) / "adapter_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(768))
    with pytest.raises(ModelInvalid, match="wrong form"):
        read_adapter(file.parent)


def test_an_absurd_rank_is_refused_by_the_header(save: Save) -> None:
    directory = save({"q_proj": (2, 2)}, r=513)
    with pytest.raises(ModelInvalid, match="rank at q_proj is 513"):
        read_adapter(directory)


def test_files_that_are_missing_or_pickled(save: Save, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"no adapter_config\.json"):
        read_adapter(tmp_path / "nowhere")
    directory = save(LAYERS)
    (directory / "adapter_model.safetensors").rename(directory / "elsewhere")
    with pytest.raises(ModelMissing, match=r"no adapter_model\.safetensors"):
        read_adapter(directory)
    (directory / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelInvalid, match="pickled"):
        read_adapter(directory)
