"""Tiny models with random weights and a small tokenizer, as real directories of transformers."""

from __future__ import annotations

import importlib
import json
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.settings import ModelSettings

SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ('user', 'assistant', 'system') %}"
    "{{ raise_exception('no role ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CORPUS = ["the quick brown fox jumps over the lazy dog", "a node answers what a node is asked"] * 20
ENTRIES = 400
CONTEXT = 640
EMPTY = struct.pack("<Q", 2) + b"{}"
"""A safetensors file with no tensor."""
TOY_WORKER = Path(__file__).with_name("toy_worker.py")
TOY_BUILDER = Path(__file__).with_name("toy_builder.py")


def save_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    transformers: Any = importlib.import_module("transformers")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=False))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **names,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)


@pytest.fixture(scope="session")
def toy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for ``toy_worker.py``: a token for each byte, weights that are never read."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate(SPECIAL + alphabet)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    path = tmp_path_factory.mktemp("toy")
    bpe.save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    (path / "config.json").write_text('{"model_type": "toy"}')
    (path / "model.safetensors").write_bytes(EMPTY)
    return path


@pytest.fixture
def toy(toy_dir: Path) -> Callable[..., AbstractAsyncContextManager[InferenceClient]]:
    """Serves the toy model, with other settings if wanted."""

    def serve_toy(**settings: Any) -> AbstractAsyncContextManager[InferenceClient]:
        chosen = ModelSettings("toy", **({"source": str(toy_dir)} | settings))
        worker, builder = ((sys.executable, "-P", str(path)) for path in (TOY_WORKER, TOY_BUILDER))
        return serving(ModelActor(chosen, command=worker, builder=builder))

    return serve_toy


@pytest.fixture
def serve() -> Callable[[Path], AbstractAsyncContextManager[InferenceClient]]:
    """Serves a directory as ``tiny``, by the real worker."""
    return lambda path: serving(ModelActor(ModelSettings("tiny", str(path))))


@asynccontextmanager
async def serving(actor: ModelActor) -> AsyncIterator[InferenceClient]:
    """Run an actor until its model is ready or has failed, and while the block runs."""
    client = InferenceClient([actor])
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        with trio.fail_after(60):
            await client.settled()
        yield client
        nursery.cancel_scope.cancel()


def build(family: str, directory: Path, dtype: str = "float32") -> Path:
    import torch

    transformers: Any = importlib.import_module("transformers")
    common = {"vocab_size": ENTRIES, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    shape = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
    }
    config = {
        "llama": lambda: transformers.LlamaConfig(**common, **shape),
        "qwen3": lambda: transformers.Qwen3Config(**common, **shape, head_dim=12),
        "gpt2": lambda: transformers.GPT2Config(
            **common, n_embd=48, n_layer=2, n_head=4, n_positions=CONTEXT
        ),
    }[family]()
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # larger than the default, so that no answer is a monotone
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directory of the tiny model of a family, built once."""
    built: dict[tuple[str, str], Path] = {}

    def directory(family: str = "llama", dtype: str = "float32") -> Path:
        if (family, dtype) not in built:
            path = tmp_path_factory.mktemp(f"{family}-{dtype}")
            built[family, dtype] = build(family, path, dtype)
            assert json.loads((path / "config.json").read_text())["model_type"] == family
        return built[family, dtype]

    return directory


def save_adapter(
    directory: Path,
    layers: dict[str, tuple[int, int]],
    *,
    seed: int = 1,
    dtype: str = "float32",
    **settings: Any,
) -> Path:
    """Write a LoRA adapter in PEFT's form, of random numbers.

    Args:
        layers: inputs and outputs by name.
        seed: another gives other numbers.
        settings: of the description; ``r`` is 4 if it is not among them.
    """
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    described: dict[str, Any] = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
    } | settings
    described.setdefault("target_modules", sorted({name.rpartition(".")[2] for name in layers}))
    ranks = described.get("rank_pattern") or {}
    tensors = {}
    for name, (inputs, outputs) in layers.items():
        rank = next((r for key, r in ranks.items() if name.endswith(key)), described["r"])
        for part, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            numbers = torch.randn(shape, generator=random) * 0.2
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = numbers
    directory.mkdir(parents=True, exist_ok=True)
    converted = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    save_file(converted, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(described))
    return directory


LLAMA_LAYERS = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (48, 48),
        "self_attn.v_proj": (48, 24),
        "self_attn.o_proj": (48, 48),
        "mlp.up_proj": (48, 96),
        "mlp.down_proj": (96, 48),
    }.items()
}
GPT2_LAYERS = {
    f"transformer.h.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {"attn.c_attn": (48, 144), "mlp.c_fc": (48, 192)}.items()
}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes an adapter for any layers."""
    return lambda layers, **settings: save_adapter(tmp_path / "adapter", layers, **settings)


@pytest.fixture
def save_at() -> Callable[..., Path]:
    """Writes an adapter for any layers anywhere."""
    return save_adapter


@pytest.fixture(scope="session")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directory of an adapter for the tiny model of a family."""

    def directory(family: str = "llama", **settings: Any) -> Path:
        layers = GPT2_LAYERS if family == "gpt2" else LLAMA_LAYERS
        return save_adapter(tmp_path_factory.mktemp("adapter"), layers, **settings)

    return directory
