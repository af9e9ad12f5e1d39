"""What daemon and worker say to each other: token ids, never text; counts, never objects.

Each message is a msgpack array ``[tag, field, …]`` of fixed length and types, behind its length
as u32 big-endian.  No pickle, no class names, no maps.  Token ids travel as packed u32
little-endian, so that a prompt of 100 000 tokens is one object to parse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from r3mes.errors import REGISTRY, EngineError, WireError

FRAME_CAP = 64 * 1024 * 1024
"""Bytes of one message; the largest is `Loaded` with its tokenizer (30 MB at Gemma's size)."""


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A tagged positional array; both sides check number and types of the fields."""


class Load(_Message, frozen=True, tag=1):
    """The first message: load the model in directory ``path``.

    Args:
        engine: ``torch`` or ``openvino``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; one that is missing is an error.
        dtype: ``auto`` (what the model was stored in), ``bfloat16``, ``float16``, ``float32``.
        max_context: upper bound on prompt and answer together, in tokens; 0 for the model's own.
        slots: answers written at the same time.
        threads: CPU threads of the engine; 0 for its own choice.
        kv_bytes: most memory of keys and values; 0 for the engine's own choice.
        memory_bytes: most memory that the worker may occupy; 0 for no cap.
        cache: a directory for what the worker makes of the model, to be found there next time;
            empty for none.
        programs: directory of what was built for this machine; empty to use none of it.
        weights: ``stored``, or ``int8``: bytes with a scale for each output of a layer.
    """

    path: str
    engine: str
    device: str
    dtype: str
    max_context: int
    slots: int
    threads: int
    cache: str = ""
    kv_bytes: int = 0
    memory_bytes: int = 0
    programs: str = ""
    weights: str = "stored"


class Loaded(_Message, frozen=True, tag=2):
    """The model is ready; what the daemon needs for admission and for text.

    Args:
        hash: of the model's files, 32 bytes, see `r3mes.actors.inference.files`.
        context: prompt and answer together, in tokens.
        vocabulary: token ids are below it.
        tokenizer: of the ``tokenizers`` library, as its JSON text.
        chat_template: Jinja text; empty if the model has none.
        special_tokens: name and text, such as ``("bos_token", "<s>")``, for the template.
        stop_ids: an answer ends before any of them.
        files: name and SHA-256 in hex of each file that counts, sorted by name.
        room: tokens whose keys and values fit into memory; 0 for no known bound.
        native: what of it is code made for this machine, or why nothing is.
        unbuilt: whether there could be more, if it were built.
    """

    hash: bytes
    architecture: str
    parameters: int
    dtype: str
    device: str
    context: int
    vocabulary: int
    numeric_class: str
    slots: int
    tokenizer: str
    chat_template: str
    special_tokens: tuple[tuple[str, str], ...]
    stop_ids: tuple[int, ...]
    files: tuple[tuple[str, str], ...] = ()
    room: int = 0
    native: str = ""
    unbuilt: bool = False


class LoadFailed(_Message, frozen=True, tag=3):
    """The model cannot be loaded.

    Args:
        code: of an error in `r3mes.errors.REGISTRY`.
        why, do: its detail, and what to do about it; empty for the error's general advice.
    """

    code: str
    why: str
    do: str


class Start(_Message, frozen=True, tag=4):
    """Write an answer to ``prompt``, going on behind ``emitted``.

    Args:
        id: chosen by the daemon, never used twice in one worker's life.
        prompt, emitted: packed token ids.
        max_new: most tokens to write.
        stop_ids: end before any of them, besides the model's own.
        adapter: the number of one that is loaded; 0 for the model as it is.
        bias: packed token ids, each with its bias in ``biases``.
        logprobs: how many log-probabilities to tell of each token, its own the first; 0 for none.
        grammar: that the answer follows, as `r3mes.actors.inference.grammar` compiles it; empty if
            it is free.
        owner: who asks, as far as the worker must know: another one for another caller.
    """

    id: int
    prompt: bytes
    emitted: bytes
    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_new: int
    stop_ids: bytes
    adapter: int
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias: bytes = b""
    biases: tuple[float, ...] = ()
    logprobs: int = 0
    grammar: str = ""
    owner: bytes = b""


class Cancel(_Message, frozen=True, tag=5):
    """Stop writing; answered by `Ended`, unless it ended before."""

    id: int


class Wrote(_Message, frozen=True, tag=6):
    """New tokens; ``position`` counts from the first token after the prompt.

    Args:
        logprobs: of each of ``ids``, as `r3mes.actors.inference.logprobs` packs them; empty if
            they were not asked for.
    """

    id: int
    position: int
    ids: bytes
    logprobs: bytes = b""


class Ended(_Message, frozen=True, tag=7):
    """No more tokens: ``stop``, ``length`` or ``cancelled``; ``refused`` says ``why``."""

    id: int
    reason: str
    why: str = ""


class Ping(_Message, frozen=True, tag=8):
    """Are you there?  Answered between two steps of the engine."""

    number: int


class Build(_Message, frozen=True, tag=40):
    """To a builder: build for this machine what is missing.

    Args:
        model: its directory.
        programs: where to put it.
        scaled: weights will be bytes with a scale for each output.
    """

    model: str
    programs: str
    scaled: bool


class Built(_Message, frozen=True, tag=41):
    """Everything is there now, or ``why`` not."""

    why: str


class Pong(_Message, frozen=True, tag=9):
    """Yes; what there is room for, and what was used.

    Args:
        gpu_bytes: memory that is taken on the GPU.
        prompt_tokens: of all prompts so far.
        cached_tokens: those that were not read, as an earlier prompt began alike.
        kv_bytes: memory of keys and values.
    """

    number: int
    running: int
    free_slots: int
    gpu_bytes: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    kv_bytes: int = 0


class LoadAdapter(_Message, frozen=True, tag=30):
    """An adapter follows, as `AdapterPart`; answered by `AdapterLoaded` or `AdapterFailed`.

    Args:
        number: chosen by the daemon, never used twice in one worker's life; not 0.
        config: its description, as it stands in the file.
        weight_bytes: how many come.
    """

    number: int
    config: bytes
    weight_bytes: int


class AdapterPart(_Message, frozen=True, tag=31):
    """The next bytes of an adapter's weights.

    The worker may not open the file itself: which directories it may read is settled for good
    before it reads its model.
    """

    number: int
    data: bytes


class UnloadAdapter(_Message, frozen=True, tag=32):
    """Forget an adapter, also while it arrives; no answer uses it any more."""

    number: int


class AdapterLoaded(_Message, frozen=True, tag=33):
    """Answers may use it.

    Args:
        hash: of what arrived, see `r3mes.actors.inference.adapter_files.hash_adapter`.
        numeric: how it computes, as a part of the numeric class.
        memory_bytes: what all adapters take now.
    """

    number: int
    hash: bytes
    numeric: str
    memory_bytes: int


class AdapterFailed(_Message, frozen=True, tag=34):
    """It cannot be used; ``code``, ``why`` and ``do`` as in `LoadFailed`."""

    number: int
    code: str
    why: str
    do: str


class Embed(_Message, frozen=True, tag=20):
    """Make a vector of each row; a worker for embeddings takes this instead of `Start`.

    Args:
        id: chosen by the daemon, never used twice in one worker's life.
        rows: packed token ids of each text.
    """

    id: int
    rows: tuple[bytes, ...]


class Embedded(_Message, frozen=True, tag=21):
    """The vectors of an `Embed`, in its order: ``width`` numbers each, f32 little-endian."""

    id: int
    width: int
    vectors: bytes


Command: TypeAlias = (
    Build | Load | Start | Cancel | Ping | LoadAdapter | AdapterPart | UnloadAdapter | Embed
)
Report: TypeAlias = (
    Built | Loaded | LoadFailed | Wrote | Ended | Pong | AdapterLoaded | AdapterFailed | Embedded
)

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def failure(report: LoadFailed | AdapterFailed) -> EngineError:
    """What a worker's report of a failure means."""
    kind = REGISTRY.get(report.code, EngineError)
    known = kind if issubclass(kind, EngineError) else EngineError
    return known(report.why, do=report.do or None)


def frame(message: Command | Report) -> bytes:
    """The bytes of one message, length first.

    Raises:
        WireError: it is larger than `FRAME_CAP`.
    """
    body = _encoder.encode(message)
    if len(body) > FRAME_CAP:
        raise WireError(f"a message of {len(body)} bytes is over the cap of {FRAME_CAP}")
    return struct.pack(">I", len(body)) + body


class Unframer:
    """Cuts a byte stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take ``data``; yields every body that is now complete.

        Raises:
            WireError: a frame announces more than `FRAME_CAP` bytes.
        """
        self._buffer += data
        while len(self._buffer) >= 4:
            (size,) = struct.unpack_from(">I", self._buffer)
            if size > FRAME_CAP:
                raise WireError(f"a frame of {size} bytes is over the cap of {FRAME_CAP}")
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield body


def decode_command(body: bytes) -> Command:
    """What the daemon says.

    Raises:
        WireError: not one of its messages.
    """
    try:
        return _commands.decode(body)
    except msgspec.DecodeError as error:
        raise WireError(f"the daemon sent something else: {error}") from None


def decode_report(body: bytes) -> Report:
    """What the worker says.

    Raises:
        WireError: not one of its messages.
    """
    try:
        return _reports.decode(body)
    except msgspec.DecodeError as error:
        raise WireError(f"the worker sent something else: {error}") from None


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as u32 little-endian."""
    return struct.pack(f"<{len(ids)}I", *ids)


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    """Token ids from u32 little-endian.

    Raises:
        WireError: the length is not a multiple of four.
    """
    if len(packed) % 4:
        raise WireError(f"{len(packed)} bytes are not packed token ids")
    return struct.unpack(f"<{len(packed) // 4}I", packed)
