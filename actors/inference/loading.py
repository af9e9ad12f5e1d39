"""Loading a model of transformers, in the worker: safely, completely, on the device asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from r3mes.actors.inference.engine import Numerics
from r3mes.actors.inference.files import check_model, read_json
from r3mes.actors.inference.text_parts import TextParts
from r3mes.errors import EngineError, ModelInvalid, ModelTooLarge

FALLBACK_CONTEXT = 4096
"""For models that name no length (alibi, state space)."""
DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to compute, and what it is.

    Args:
        siblings: by linear layer, those that get the same rows; known once it has computed.
    """

    module: Any
    numerics: Numerics
    text: TextParts
    siblings: dict[str, tuple[str, ...]] = field(default_factory=dict)


def load_model(directory: Path, *, device: str, dtype: str, max_context: int) -> LoadedModel:
    """Load everything.

    Raises:
        ModelMissing, ModelInvalid: see `r3mes.actors.inference.files.check_model`; or the
            architecture is not known, wants code of its own, or weights are missing or corrupt.
        EngineError: the device is not there.
    """
    check_model(directory)
    chosen = choose_device(device)
    if dtype not in DTYPES:
        raise EngineError(f"{dtype!r} is not a precision", do=f"choose one of {', '.join(DTYPES)}")
    try:
        config = _config(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        text = _text_parts(tokenizer, directory)
        module = _module(directory, config, dtype).to(chosen).eval()
    except EngineError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelTooLarge(
            f"{directory} does not fit into the memory of {chosen}: {first_line(error)}",
            do="choose a smaller model; one that needs several GPUs is for a server of its own, "
            'see engine = "upstream"',
        ) from error
    except Exception as error:
        raise ModelInvalid(f"{directory} cannot be loaded: {first_line(error)}") from error
    return LoadedModel(module, _numerics(module, tokenizer, chosen, max_context), text)


def choose_device(wish: str) -> torch.device:
    """The device asked for; ``auto`` takes a GPU if there is one.

    Raises:
        EngineError: it is not there, or no such thing is.
    """
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise EngineError(
            f"{wish!r} is not a device", do="set engine.device to auto, cpu, cuda or cuda:N"
        ) from None
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise EngineError(
            f"the engine was told to use {wish}, and torch sees {seen} GPUs",
            do="install the driver and a CUDA build of torch, or set engine.device to auto or cpu",
        )
    return device


def _config(directory: Path) -> Any:
    described = read_json(directory / "config.json")
    if described["model_type"] not in CONFIG_MAPPING:
        wants_code = (
            "wants to run code of its own (auto_map) and " if described.get("auto_map") else ""
        )
        raise ModelInvalid(
            f"{directory} {wants_code}has an architecture that transformers "
            f"{transformers.__version__} does not know: {described['model_type']!r}"
        )
    return AutoConfig.from_pretrained(directory, trust_remote_code=False)


def _module(directory: Path, config: Any, dtype: str) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        directory,
        config=config,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    module, report = loaded
    # transformers fills what is missing with random numbers and a warning; we do not serve that.
    wrong = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if wrong:
        raise ModelInvalid(f"{directory} lacks {len(wrong)} weights, such as {min(wrong)}")
    return module


def _text_parts(tokenizer: Any, directory: Path) -> TextParts:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelInvalid(f"the tokenizer in {directory} has no form that `tokenizers` can read")
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):
        template = template.get("default", "")
    named = tokenizer.special_tokens_map.items()
    special = tuple((name, text) for name, text in named if isinstance(text, str))
    return TextParts(backend.to_str(), template, special)


def _numerics(module: Any, tokenizer: Any, device: torch.device, max_context: int) -> Numerics:
    config = module.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or FALLBACK_CONTEXT
    dtype = str(module.dtype).removeprefix("torch.")
    return Numerics(
        architecture=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        dtype=dtype,
        device=str(device),
        context=min(context, max_context or context),
        vocabulary=module.get_input_embeddings().num_embeddings,
        numeric_class=numeric_class(device, dtype),
        stop_ids=_stop_ids(module, tokenizer),
    )


def numeric_class(device: torch.device, dtype: str) -> str:
    """What has to be alike for two machines to compute alike."""
    libraries = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{libraries}, {_processor(device)}, {dtype}"


def _processor(device: torch.device) -> str:
    """The instruction set or GPU type: what decides which kernels run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    extra = [name for name in ("avx512_bf16", "amx_bf16") if _cpu_has(name)]
    return " ".join(["cpu", torch.backends.cpu.get_cpu_capability(), *extra])


def _cpu_has(flag: str) -> bool:
    try:
        return f" {flag} " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _stop_ids(module: Any, tokenizer: Any) -> tuple[int, ...]:
    generation = getattr(module, "generation_config", None)
    named = (
        getattr(generation, "eos_token_id", None),
        module.config.get_text_config().eos_token_id,
        tokenizer.eos_token_id,
    )
    ids = {
        i
        for value in named
        if value is not None
        for i in ([value] if isinstance(value, int) else value)
    }
    return tuple(sorted(ids))


def first_line(error: BaseException) -> str:
    """Kind and first line of a library's error, which may have pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
