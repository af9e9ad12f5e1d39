"""Models of two sizes with random weights, and prompts of an exact number of tokens for them.

Weights do not matter to speed, so both are made here, once, and kept in the benchmark's cache.  The
tokenizer is a real byte-level BPE whose merges are written down instead of learnt: words of two or
three syllables.  Every engine can read it, every entry is plain text that a stream shows at once,
and a prompt of 64 words has 64 tokens everywhere.  No entry ends an answer, so that all answers
have the length that was asked for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

SYLLABLES = ["".join(pair) for pair in product("bcdfghjklmnpqrstvwxz", "aeiou")]
PAIRS = ["".join(pair) for pair in product(SYLLABLES, SYLLABLES)]
SPACE = "Ġ"  # as byte-level BPE writes it
PAD = "<|pad|>"
CONTEXT = 2048
SEED = 15
SPREAD = 0.05
"""Of the weights: with the usual 0.02 such a model repeats one token for ever, which an engine that
guesses ahead would profit from."""
TEMPLATE = "{%- for message in messages -%}{{ message['content'] }}{%- endfor -%}"


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of the Llama architecture with tied embeddings, in bf16.

    Args:
        poisson_per_s: requests that arrive in a second when they come by chance.
        repeats: how often the loads of 1, 4 and 16 are played in a round; small models need more.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    poisson_per_s: float
    repeats: tuple[int, int, int]

    @property
    def parameters(self) -> int:
        head = self.hidden // self.heads
        attention = self.hidden * head * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        return self.vocabulary * self.hidden + self.layers * layer + self.hidden

    @property
    def weight_bytes(self) -> int:
        return 2 * self.parameters


SMALL = Shape("15M", 288, 6, 6, 6, 768, 32_000, 4.0, (4, 3, 2))
"""The shape of stories15M of llama2.c."""
LARGE = Shape("135M", 576, 30, 9, 3, 1536, 49_152, 1.0, (2, 1, 1))
"""The shape of SmolLM2-135M."""


def build(shape: Shape, cache: Path) -> Path:
    """The model's directory under ``cache``; made if it is not there yet."""
    directory = cache / "models" / f"{shape.name}-{mark(shape)}"
    if not directory.exists():
        making = directory.with_name(f".{directory.name}")
        shutil.rmtree(making, ignore_errors=True)
        _module(shape).save_pretrained(making)
        _tokenizer(shape.vocabulary).save_pretrained(making)
        _forget_ends(making / "generation_config.json")
        making.rename(directory)
    return directory


def mark(shape: Shape) -> str:
    """Another for whatever makes another model; what is converted from it is named after it."""
    made_of = [_settings(shape), SEED, TEMPLATE, SYLLABLES]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]


def prompt(random: Random, tokens: int) -> str:
    """Words that are one token each."""
    return " ".join(random.choices(PAIRS, k=tokens))


def entries(vocabulary: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The entries of a tokenizer of that size, and the merges that lead to them."""
    merges = [(syllable[0], syllable[1]) for syllable in SYLLABLES]
    merges += [*product(SYLLABLES, SYLLABLES)]
    merges += [(SPACE, pair) for pair in PAIRS]
    made = [PAD, *_byte_letters(), *("".join(merge) for merge in merges)]
    longer = product((SPACE + pair for pair in PAIRS), SYLLABLES)
    for merge in longer:
        if len(made) == vocabulary:
            break
        merges.append(merge)
        made.append("".join(merge))
    assert len(made) == vocabulary
    return made, merges


def _byte_letters() -> Iterator[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    yield from sorted(ByteLevel.alphabet())


def _settings(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        "initializer_range": SPREAD,
    }


def _module(shape: Shape) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    module: Any = LlamaForCausalLM(LlamaConfig(**_settings(shape)))
    return module.to(torch.bfloat16)


def _tokenizer(vocabulary: int) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made, merges = entries(vocabulary)
    bpe = Tokenizer(models.BPE({text: number for number, text in enumerate(made)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    wrap: Any = transformers.PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=bpe,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def _forget_ends(file: Path) -> None:
    """Leave no token that ends an answer, and no sampling that nobody asked for."""
    described = json.loads(file.read_text())
    for name in ("eos_token_id", "bos_token_id"):
        described.pop(name, None)
    file.write_text(json.dumps(described | {"do_sample": False}))
