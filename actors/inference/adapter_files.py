"""A LoRA adapter as files, in the form of PEFT: what it says, whether it can be used, its hash.

The weights are read as safetensors and nothing else: a pickle runs code when it is loaded.  What
changes an answer in a way that is not computed here is refused and never left out: an adapter that
half works answers wrongly and says nothing.

Source: PEFT 0.21, ``LoraConfig`` and ``get_pattern_key``; the layout of safetensors files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from r3mes.actors.inference.files import PICKLES, hash_of, read_json
from r3mes.actors.requests.canonical import framed
from r3mes.errors import ModelInvalid, ModelMissing
from r3mes.ids import ModelHash

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DOMAIN = b"r3mes/adapter/v1"
WEIGHTS_CAP = 4 << 30
"""Bytes of the weights; a large adapter of a large model has 2 GB."""
HEADER_CAP = 16 << 20
"""Bytes of the header of a safetensors file; 10 000 tensors take 1 MB."""
RANK_CAP, ALPHA_CAP = 512, 1e6
PATTERNS_CAP, PATTERN_CAP, REPEATS_CAP = 256, 200, 2
"""Entries of a pattern, characters of one, and repetitions in it: more may take ages to match."""
WIDTH, SHORTEST = 4, 8
"""Adapters that lie in memory together, and the lowest rank that they are rounded up to."""
DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
PREFIX = "base_model.model."

PLAIN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "r3mes_base", "rank_pattern", "revision", "target_modules",
    "task_type", "use_rslora",
}  # fmt: skip
"""Settings that are understood, or say nothing about how an answer is computed."""
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin a training that change the base model's weights, too."""
PRODUCT = re.compile(r"(?P<layer>[^\s]{1,512})\.lora_(?P<part>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class LowRank:
    """The part of one layer: A of shape (rank, inputs), B of shape (outputs, rank)."""

    rank: int
    inputs: int
    outputs: int
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter that is well-formed; whether it suits a model only the model can tell.

    Args:
        config: the bytes of its description.
        weights: where its weights are.
        weight_bytes: their size.
        hash: see `hash_adapter`.
        layers: by the name of the base model's layer.
        base: hash of the model that it was made for, if it says so.
    """

    config: bytes
    weights: Path
    weight_bytes: int
    hash: ModelHash
    layers: Mapping[str, LowRank]
    base: ModelHash | None

    def memory_bytes(self, number_bytes: int) -> int:
        """At most: its stacks have room for others and for more layers, and all is kept twice."""
        numbers = sum(
            rounded(one.rank) * (one.inputs + one.outputs) for one in self.layers.values()
        )
        return 2 * 2 * WIDTH * numbers * number_bytes

    def check_base(self, model: ModelHash) -> None:
        """Refuse to be an adapter of ``model`` if it names another one."""
        if self.base is not None and self.base != model:
            raise ModelInvalid(
                f"the adapter was made for the model {self.base.hex()[:16]}…, and this one is "
                f"{model.hex()[:16]}…",
                do="load it with the model that it was made for",
            )


def read_adapter(directory: Path) -> AdapterFiles:
    """Look at everything but the numbers; takes as long as the disk does, for the hash.

    Raises:
        ModelMissing: there is no adapter in ``directory``.
        ModelInvalid: it is pickled, damaged, or of a kind that is not computed here.
    """
    described, weights = directory / CONFIG, directory / WEIGHTS
    if not described.is_file():
        raise ModelMissing(f"there is no {CONFIG} in {directory}")
    if not weights.is_file():
        _refuse_weightless(directory)
    settings = read_json(described)
    layers = described_layers(settings, _header(weights))
    try:
        config, size = described.read_bytes(), weights.stat().st_size
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelMissing(f"a file of the adapter cannot be read: {error}") from None
    return AdapterFiles(config, weights, size, hash_adapter(config, digest), layers,
                        _base(settings))  # fmt: skip


def hash_adapter(config: bytes, weights: str) -> ModelHash:
    """SHA-256 over the lines that ``sha256sum`` prints for the two files.

    Args:
        config: the description's bytes.
        weights: SHA-256 of the weights, in hex.
    """
    return hash_of({CONFIG: hashlib.sha256(config).hexdigest(), WEIGHTS: weights})


def adapted_hash(base: ModelHash, adapter: ModelHash) -> ModelHash:
    """What ``base:adapter`` is called in the network; see ``docs/wire.md``."""
    return ModelHash(hashlib.sha256(framed(DOMAIN, base, adapter)).digest())


def rounded(rank: int) -> int:
    """The rank with which an adapter is computed: 8 or a power of two above it."""
    return max(SHORTEST, 1 << (rank - 1).bit_length())


def _refuse_weightless(directory: Path) -> None:
    pickled = [file.name for pattern in PICKLES for file in sorted(directory.glob(pattern))]
    if pickled:
        raise ModelInvalid(
            f"the weights in {directory} are pickled ({pickled[0]}), and a pickle can run code",
            do="save the adapter again with PEFT's safe_serialization, on a machine of no value",
        )
    raise ModelMissing(f"there is no {WEIGHTS} in {directory}")


# The description


def described_layers(
    settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, LowRank]:
    """The layers, if description and weights agree.

    Args:
        settings: what stands in the description.
        shapes: of the tensors by name.

    Raises:
        ModelInvalid: they do not, or something is wanted that is not computed here.
    """
    _refuse_other_kinds(settings)
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        found = PRODUCT.fullmatch(name.removeprefix(PREFIX))
        if found is None:
            raise ModelInvalid(f"the adapter has a weight that is none of LoRA's: {name[:200]!r}")
        pairs.setdefault(found["layer"], {})[found["part"]] = shape
    if not pairs:
        raise ModelInvalid("the adapter has no weights")
    _check_targets(settings.get("target_modules"), pairs)
    ranks = _Pattern(settings, "rank_pattern", "r")
    alphas = _Pattern(settings, "alpha_pattern", "lora_alpha")
    root = bool(settings.get("use_rslora"))
    return {layer: _low_rank(layer, pair, ranks, alphas, root) for layer, pair in pairs.items()}


def _refuse_other_kinds(settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelInvalid(f"the adapter is of the kind {str(kind)[:64]!r} and not LORA")
    if settings.get("bias", "none") != "none":
        raise ModelInvalid("the adapter changes the biases of its model, which is not supported")
    begun = settings.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(CHANGES_BASE):
        raise ModelInvalid(
            f"the adapter was begun with {begun[:64]!r}, which changes the model's own weights",
            do="save it with path_initial_model_for_weight_conversion, which makes it plain LoRA",
        )
    unknown = [key for key, value in settings.items() if value and key not in PLAIN]
    if unknown:
        raise ModelInvalid(
            f"the adapter uses {min(unknown)[:64]!r}, which is not supported",
            do="use plain LoRA adapters: r, lora_alpha, use_rslora and patterns of them",
        )


def _check_targets(targets: object, layers: Iterable[str]) -> None:
    """PEFT leaves weights of other layers out; which answer is meant then nobody can know."""
    if not isinstance(targets, list):
        return  # a pattern, or all linear layers
    names = tuple(str(target) for target in targets)
    for layer in layers:
        if layer not in names and not layer.endswith(tuple(f".{name}" for name in names)):
            raise ModelInvalid(f"the adapter has weights for {layer[:200]}, which is no target")


class _Pattern:
    """A setting that may differ from layer to layer."""

    def __init__(self, settings: Mapping[str, Any], pattern: str, default: str) -> None:
        self._default, self._name = settings.get(default), default
        values = settings.get(pattern) or {}
        if not isinstance(values, dict) or len(values) > PATTERNS_CAP:
            raise ModelInvalid(f"{pattern} is no object of up to {PATTERNS_CAP} entries")
        self._values = [(_compiled(key, pattern), value) for key, value in values.items()]

    def of(self, layer: str) -> float:
        """The first entry that matches counts, as with PEFT."""
        value = next((v for key, v in self._values if key.match(layer)), self._default)
        if isinstance(value, int | float) and value is not True and 0 < value <= ALPHA_CAP:
            return float(value)
        raise ModelInvalid(f"{self._name} of {layer[:200]} is no number above 0")


def _compiled(key: str, pattern: str) -> re.Pattern[str]:
    repeats = len(re.findall(r"[*+{?]", key))
    if len(key) > PATTERN_CAP or repeats > REPEATS_CAP:
        raise ModelInvalid(f"{pattern} has an entry that is too costly to match: {key[:64]!r}")
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError) as error:
        raise ModelInvalid(f"{pattern} has an entry that is no pattern: {error}") from None


def _low_rank(
    layer: str, pair: Mapping[str, tuple[int, ...]], ranks: _Pattern, alphas: _Pattern, root: bool
) -> LowRank:
    if set(pair) != {"A", "B"} or any(len(shape) != 2 for shape in pair.values()):
        raise ModelInvalid(f"the adapter needs two matrices for {layer[:200]}")
    (rank, inputs), (outputs, other) = pair["A"], pair["B"]
    if not 0 < rank <= RANK_CAP:
        raise ModelInvalid(f"the rank at {layer[:200]} is {rank}, and not 1 to {RANK_CAP}")
    if rank != other or rank != ranks.of(layer):
        raise ModelInvalid(
            f"the rank at {layer[:200]} is {rank} and {other} in the weights and "
            f"{ranks.of(layer):g} in the description"
        )
    return LowRank(rank, inputs, outputs, alphas.of(layer) / (sqrt(rank) if root else rank))


def _base(settings: Mapping[str, Any]) -> ModelHash | None:
    named = settings.get("r3mes_base")
    if named is None:
        return None
    if not isinstance(named, str) or not re.fullmatch("[0-9a-f]{64}", named):
        raise ModelInvalid("r3mes_base is not the hash of a model, 64 hexadecimal digits")
    return ModelHash(bytes.fromhex(named))


# The weights' header


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file, whose size must be what they say."""
    try:
        size = file.stat().st_size
        if size > WEIGHTS_CAP:
            raise ModelInvalid(f"{file} is larger than {WEIGHTS_CAP >> 30} GiB")
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(HEADER_CAP, size - 8):
                raise ModelInvalid(f"{file} is no safetensors file, or cut off")
            header = json.loads(opened.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{file} cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise ModelInvalid(f"{file} is no safetensors file")
    return dict(_shapes(file, header, size - 8 - length))


def _shapes(
    file: Path, header: Mapping[str, Any], data: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    taken = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        match tensor:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(), int()]} if (
                kind in DTYPES and all(type(n) is int and n >= 0 for n in shape)
            ):
                numbers = 1
                for n in shape:
                    numbers *= n
                taken += numbers * DTYPES[kind]
                yield name, tuple(shape)
            case _:
                raise ModelInvalid(f"{file} has a tensor of a wrong form: {name[:200]!r}")
    if taken != data:
        raise ModelInvalid(f"{file} is damaged: {data} bytes where its header names {taken}")
