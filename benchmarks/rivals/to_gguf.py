"""Writes a model of the Llama architecture as GGUF; run by the Python of llama.cpp's environment.

    python to_gguf.py DIRECTORY making-FILE.gguf bf16|q8_0

llama.cpp's own converter knows tokenizers by their hash, and ours is none of them.

Source: ``convert_hf_to_gguf.py`` of llama.cpp; left out: everything but Llama with tied embeddings.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]  # of that environment
import numpy as np
from numpy.typing import NDArray

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors(file: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The weights as float32; bf16 is the upper half of it."""
    data = file.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    for name, about in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            halves = np.frombuffer(data[8 + size + begin : 8 + size + end], np.uint16)
            wide = (halves.astype(np.uint32) << 16).view(np.float32)
            yield name, wide.reshape(about["shape"])


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows in the order in which llama.cpp rotates them: pairs side by side."""
    rows, columns = weight.shape
    split = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows, columns)


def translated(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, inner = name.split(".", 3)
    return f"blk.{layer}.{NAMES[inner.removesuffix('.weight')]}.weight"


def describe(writer: gguf.GGUFWriter, directory: Path, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    model = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    entries = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(entries)
    writer.add_token_types([control, *([normal] * (len(entries) - 1))])
    writer.add_token_merges(merges)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template((directory / "chat_template.jinja").read_text(encoding="utf-8"))


def main() -> None:
    directory, target, weights = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    kind = gguf.GGMLQuantizationType[weights.upper()]
    writer = gguf.GGUFWriter(target, "llama")
    describe(writer, directory, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, weight in tensors(directory / "model.safetensors"):
        projection = name.split(".")[-2]
        if projection in heads:
            weight = interleaved(weight, heads[projection])
        if weight.ndim == 1:  # norms stay as they are in every format
            writer.add_tensor(translated(name), weight)
        else:
            packed = gguf.quants.quantize(weight, kind)
            writer.add_tensor(translated(name), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
