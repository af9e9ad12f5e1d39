"""Every key of the configuration: its type, bounds, default and meaning, in one place.

``docs/config.md`` is made from this file, and so are the messages about wrong values.  Names carry
their unit where they have one.  Nothing here is secret: secrets are files, named by path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from r3mes.config.paths import data_directory

PORT = r"(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
ADDRESS = rf"^([^\s:]+|\[[0-9a-fA-F:]+\]):{PORT}\Z"
MULTIADDRESS = rf"^/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/{PORT}(/p2p/[A-Za-z0-9]+)?\Z"
ORIGIN = r"^https?://[^/\s]+\Z"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\Z"
MODELS_CAP = 32
"""Most models of one node, and adapters: as many as its hello to peers can name."""
ADAPTER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
OFFERED = rf"^[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}(:{ADAPTER})?\Z"
"""What a node offers: a model, or one with an adapter."""


def key(description: str, expects: str = "", *, secret_file: bool = False, **bounds: Any) -> Meta:
    """Describe a key.

    Args:
        description: what it is for; the first sentence of its documentation.
        expects: what a right value looks like, for messages; from the type if empty.
        secret_file: it names a file that nobody else may read.
        bounds: as `msgspec.Meta` takes them.
    """
    extra = {"expects": expects, "secret_file": secret_file}
    return Meta(description=description, extra=extra, **bounds)


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A section of the configuration."""


class Node(Layer, frozen=True):
    """The node as a whole."""

    chain_id: Annotated[
        str,
        key("The network it belongs to; peers of another are not used.",
            "up to 50 letters, digits, ., _ and -", pattern=r"^[A-Za-z0-9._-]{1,50}\Z"),
    ] = "r3mes-dev-1"  # fmt: skip
    datadir: Annotated[
        Path, key("Where database, keys and wallets are; `--datadir` moves this file there too.")
    ] = msgspec.field(default_factory=data_directory)


class Api(Layer, frozen=True):
    """The HTTP API for applications on this machine."""

    listen: Annotated[
        str,
        key("Where the API listens; port 0 takes a free one.",
            "host:port, such as 127.0.0.1:7331", pattern=ADDRESS),
    ] = "127.0.0.1:7331"  # fmt: skip
    key_file: Annotated[
        Path,
        key("Where `r3mes init` puts the API key and the command line finds it.", secret_file=True),
    ] = Path("api-key")
    admin_socket: Annotated[
        Path | None,
        key("Where programs of this machine reach every method without a key, if the file's "
            "permissions let them; `admin.sock` in the data directory if not set.",
            "a path of up to 107 bytes"),
    ] = None  # fmt: skip
    max_body_bytes: Annotated[
        int, key("Largest body that is taken.", ge=1024, le=1024 * 1024 - 4096)
    ] = 1024 * 1024 - 4096
    allowed_hosts: Annotated[
        tuple[str, ...],
        key("Names, besides those of loopback, under which callers may address the API."),
    ] = ()
    allowed_origins: Annotated[
        tuple[Annotated[str, Meta(pattern=ORIGIN)], ...],
        key("Web origins whose pages may call the API.", "origins, such as https://chat.example"),
    ] = ()
    insecure: Annotated[
        bool,
        key("Allow to listen beyond loopback although keys then travel unencrypted."),
    ] = False


class P2p(Layer, frozen=True):
    """The node's side towards other nodes."""

    listen: Annotated[
        tuple[Annotated[str, Meta(pattern=ADDRESS)], ...],
        key("Where other nodes reach this one, by TCP.", "addresses such as 0.0.0.0:7330"),
    ] = ("0.0.0.0:7330",)
    announce: Annotated[
        tuple[Annotated[str, Meta(pattern=MULTIADDRESS)], ...],
        key("Multiaddresses told to peers instead of those found out; for port forwarding.",
            "multiaddresses, such as /ip4/203.0.113.5/tcp/7330"),
    ] = ()  # fmt: skip
    bootstrap: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^/.+/p2p/[A-Za-z0-9]+\Z")], ...],
        key("Peers to connect to at start.",
            "multiaddresses with a peer id, such as /ip4/203.0.113.5/tcp/7330/p2p/12D3KooW…"),
    ] = ()  # fmt: skip
    lan_discovery: Annotated[bool, key("Find nodes in the local network by multicast DNS.")] = True


class Engine(Layer, frozen=True):
    """The process that runs the models."""

    device: Annotated[
        str,
        key("Where models run; auto takes a GPU if there is one.", "auto, cpu, cuda or cuda:N",
            pattern=r"^(auto|cpu|cuda(:\d+)?)\Z"),
    ] = "auto"  # fmt: skip
    require: Annotated[
        Literal["any", "cuda"],
        key("With cuda the node refuses to start without a GPU instead of falling back."),
    ] = "any"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        key("Number format of the weights; auto takes the one they are stored in."),
    ] = "auto"
    compile: Annotated[
        bool,
        key("Build code for this machine's processor in the background, where there is a C++ "
            "compiler; models in bfloat16 then run about twice as fast. See `docs/engines.md`."),
    ] = True  # fmt: skip
    memory_bytes: Annotated[
        Annotated[int, Meta(ge=64 * 1024 * 1024)] | None,
        key("Most memory the process may take; no cap if not set.", "bytes, 67108864 or more"),
    ] = None
    kv_bytes: Annotated[
        Annotated[int, Meta(ge=1024 * 1024)] | None,
        key("Most memory for the keys and values of answers and of earlier prompts, per model; if "
            "not set, as much as its weights take, at least 512 MiB and at most a quarter of what "
            "is free, or half of a GPU. Requests that would not fit wait.",
            "bytes, 1048576 or more"),
    ] = None  # fmt: skip
    idle_minutes: Annotated[
        Annotated[float, Meta(ge=0.1, le=100_000)] | None,
        key("A model that nobody asks for so long gives its memory back; the next request loads "
            "it again. Never if not set.", "0.1 to 100000"),
    ] = None  # fmt: skip


class Hub(Layer, frozen=True):
    """Where models are pulled from."""

    endpoint: Annotated[
        str,
        key("The Hugging Face hub, or a mirror that speaks its API.",
            "a URL, such as https://huggingface.co", pattern=r"^https?://[^\s@/?#]+(/[^\s@?#]*)?\Z"),
    ] = "https://huggingface.co"  # fmt: skip
    token_file: Annotated[
        Path | None,
        key("File with a token for models that are not for everybody.", secret_file=True),
    ] = None


class Model(Layer, frozen=True):
    """One model that this node serves."""

    id: Annotated[
        str,
        key("What to load: `builtin`, a directory with safetensors weights, a hub id, or a name "
            "given by `r3mes models import`; with `upstream_url` what that server calls the model.",
            min_length=1),
    ]  # fmt: skip
    name: Annotated[
        Annotated[str, Meta(pattern=NAME)] | None,
        key("What it is called in the network; the last part of the id if not set.",
            "up to 128 letters, digits and ._/-"),
    ] = None  # fmt: skip
    revision: Annotated[
        str | None,
        key("Commit, branch or tag of the hub's repository; stays what it was when it was pulled."),
    ] = None
    engine: Annotated[
        Literal["auto", "torch", "openvino", "upstream"],
        key("What runs it; auto takes torch where it is installed. See `docs/engines.md`."),
    ] = "auto"
    weights: Annotated[
        Literal["stored", "int8"],
        key(
            "Precision of the weights: as they are stored, or bytes with a scale for each output, "
            "which one request at a time reads faster; needs `engine.compile`."
        ),
    ] = "stored"
    upstream_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^\s@/?#]+(/[^\s@?#]*)?\Z")] | None,
        key("The server that runs it: vLLM, SGLang, llama.cpp, Ollama, or compatible with OpenAI.",
            "a URL without a password, such as http://127.0.0.1:8000/v1"),
    ] = None  # fmt: skip
    upstream_key_file: Annotated[
        Path | None, key("File with the key that server wants.", secret_file=True)
    ] = None
    tokenizer: Annotated[
        Path | None,
        key("Directory with tokenizer.json and the chat template of a model behind that server."),
    ] = None
    slots: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        key("Answers written at the same time; `limits.slots` if not set.", "1 to 1024"),
    ] = None
    price_prompt: Annotated[
        int, key("Price of the prompt, in uremes per million tokens.", ge=0, le=10**15)
    ] = 100_000
    price_completion: Annotated[
        int, key("Price of the answer, in uremes per million tokens.", ge=0, le=10**15)
    ] = 200_000
    pinned: Annotated[
        bool, key("It stays in memory, however long nobody asks for it and however short that is.")
    ] = False
    max_context: Annotated[
        Annotated[int, Meta(ge=16)] | None,
        key("Most tokens of prompt and answer; the model's own limit if not set.", "16 or more"),
    ] = None


class Adapter(Layer, frozen=True):
    """One LoRA adapter of a model, offered as `model:name`."""

    model: Annotated[str, key("The name of its model, which is one of `[[models]]`.")]
    name: Annotated[
        str,
        key("What it is called behind the model's name and a colon.",
            "up to 63 letters, digits and ._-", pattern=rf"^{ADAPTER}\Z"),
    ]  # fmt: skip
    id: Annotated[
        str,
        key("What to load: a directory with an adapter in PEFT's form, or a hub id.", min_length=1),
    ]
    revision: Annotated[
        str | None,
        key("Commit, branch or tag of the hub's repository; stays what it was when it was pulled."),
    ] = None
    hash: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None,
        key("The hash that its files must have: the SHA-256 of what "
            "`sha256sum adapter_config.json adapter_model.safetensors` prints.",
            "64 hexadecimal digits"),
    ] = None  # fmt: skip
    price_prompt: Annotated[
        Annotated[int, Meta(ge=0, le=10**15)] | None,
        key("Price of the prompt, in uremes per million tokens; the model's if not set.",
            "an integer from 0 to 1000000000000000"),
    ] = None  # fmt: skip
    price_completion: Annotated[
        Annotated[int, Meta(ge=0, le=10**15)] | None,
        key("Price of the answer, in uremes per million tokens; the model's if not set.",
            "an integer from 0 to 1000000000000000"),
    ] = None  # fmt: skip


class Embedding(Layer, frozen=True):
    """The model that makes vectors of texts, for applications of this node; see `docs/http.md`."""

    model: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        key("What to load: a directory or hub id of a model for sentence-transformers, with "
            "safetensors weights; no embeddings if not set.",
            "a path or a hub id, such as sentence-transformers/all-MiniLM-L6-v2"),
    ] = None  # fmt: skip
    name: Annotated[
        Annotated[str, Meta(pattern=NAME)] | None,
        key("What applications call it; the last part of `model` if not set.",
            "up to 128 letters, digits and ._/-"),
    ] = None  # fmt: skip
    revision: Annotated[
        str | None,
        key("Commit, branch or tag of the hub's repository; stays what it was when it was pulled."),
    ] = None
    max_context: Annotated[
        int, key("Most tokens of a text, if the model does not take fewer.", ge=16, le=32_768)
    ] = 2048
    queue: Annotated[
        int, key("Requests that may wait for it; more are refused.", ge=1, le=4096)
    ] = 64
    shortens: Annotated[
        bool,
        key(
            "Whether applications may ask for shorter vectors: those of models that were trained "
            "for it (Matryoshka) keep their meaning."
        ),
    ] = False


PROMPT = Meta(min_length=1, max_length=4000)
EXAMPLES_CAP = 4096
"""Most prompts that describe the routes of a node, together: their likeness is a square of it."""
ROUTES_CAP = 64
AUTO = "auto"
"""The model's name that stands for the router's choice."""


class Route(Layer, frozen=True):
    """A kind of prompt and the model for it, for `model = "auto"`; see `docs/routing.md`."""

    name: Annotated[
        str,
        key("What it is called in decisions.", "up to 128 letters, digits and ._/-", pattern=NAME),
    ]
    model: Annotated[
        str,
        key("Who answers its prompts: a model, or an adapter as `model:adapter`, here or at a "
            "peer.", min_length=1, max_length=256),
    ]  # fmt: skip
    examples: Annotated[
        tuple[Annotated[str, PROMPT], ...],
        key("Prompts of this kind; twenty to thirty in various wordings do well.",
            "texts of 1 to 4000 characters"),
    ] = ()  # fmt: skip
    file: Annotated[Path | None, key("More of them: a text file with one on each line.")] = None
    held_out: Annotated[
        tuple[Annotated[str, PROMPT], ...],
        key("Prompts of this kind that are not compared with, but tell from when on the router "
            "abstains; the examples tell it if there are none.", "texts of 1 to 4000 characters"),
    ] = ()  # fmt: skip


class Routing(Layer, frozen=True):
    """What `model = "auto"` does besides `[[routes]]`; see `docs/routing.md`."""

    default: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        key("The model for prompts of no route; the first of this node if not set.",
            "the name of a model"),
    ] = None  # fmt: skip
    outside: Annotated[
        tuple[Annotated[str, PROMPT], ...],
        key("Prompts that belong to no route: the more kinds, the better it abstains.",
            "texts of 1 to 4000 characters"),
    ] = ()  # fmt: skip
    outside_held_out: Annotated[
        tuple[Annotated[str, PROMPT], ...],
        key("More of them, that only tell from when on the router abstains.",
            "texts of 1 to 4000 characters"),
    ] = ()  # fmt: skip
    most_wrong: Annotated[
        float,
        key("Which share of prompts may go to a wrong route; it abstains the more, the less.",
            ge=0, le=1),
    ] = 0.05  # fmt: skip


PER_MINUTE = "0 to 1000000, 0 for no limit"


class Limits(Layer, frozen=True):
    """How much work is taken at a time, and how many requests."""

    slots: Annotated[int, key("Answers written at the same time, per model.", ge=1, le=1024)] = 4
    queue: Annotated[
        int, key("Requests that may wait for a slot, per model; more are refused.", ge=0, le=65536)
    ] = 16
    adapters: Annotated[
        int,
        key("LoRA adapters in memory at the same time, per model; the others come from disk when "
            "they are asked for.", ge=1, le=64),
    ] = 8  # fmt: skip
    drain_seconds: Annotated[
        float, key("How long answers in flight may go on when the node is stopped.", ge=0, le=3600)
    ] = 60.0
    rpm_per_key: Annotated[
        int,
        key("Requests a minute of one API key without a rate of its own; one with `n` counts once.",
            PER_MINUTE, ge=0, le=1_000_000),
    ] = 6000  # fmt: skip
    rpm_per_address: Annotated[
        int,
        key("Requests a minute from one address, whatever their keys.", PER_MINUTE,
            ge=0, le=1_000_000),
    ] = 12_000  # fmt: skip
    auth_failures_per_address: Annotated[
        int,
        key("Requests a minute without a right key from one address; a right key always opens.",
            PER_MINUTE, ge=0, le=1_000_000),
    ] = 30  # fmt: skip


class Wallet(Layer, frozen=True):
    """The account that is paid for answers and pays for them."""

    name: Annotated[
        str,
        key(
            "Which wallet in the data directory.",
            "up to 64 letters, digits, _ and -",
            pattern=r"^[A-Za-z0-9_-]{1,64}\Z",
        ),
    ] = "default"
    passphrase_file: Annotated[
        Path | None,
        key("File with the wallet's passphrase, for starting unattended.", secret_file=True),
    ] = None

    max_price_uremes: Annotated[
        int, key("Most that one answer may cost; dearer ones are refused.", ge=0, le=10**18)
    ] = 1_000_000


class Log(Layer, frozen=True):
    """What the node writes to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], key("Least severity that is written.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], key("Lines for people, or one JSON object each.")
    ] = "text"


class Metrics(Layer, frozen=True):
    """What Prometheus scrapes: `/metrics`, without a key."""

    listen: Annotated[
        str,
        key("Where it is scraped; port 0 takes a free one, empty turns it off.",
            "host:port, such as 127.0.0.1:7332, or empty", pattern=rf"^\Z|{ADDRESS}"),
    ] = "127.0.0.1:7332"  # fmt: skip


class Otel(Layer, frozen=True):
    """Traces by OpenTelemetry, if a collector is named; see `docs/tracing.md`."""

    endpoint: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^\s@/?#]+(/[^\s@?#]*)?\Z")] | None,
        key("Where a collector takes traces by OTLP over HTTP; no traces if not set.",
            "the whole URL, such as http://127.0.0.1:4318/v1/traces, without a password"),
    ] = None  # fmt: skip
    ratio: Annotated[
        float,
        key("Which part of the requests is traced; callers may ask for others.", ge=0, le=1),
    ] = 1.0


class Config(Layer, frozen=True):
    """The whole configuration."""

    node: Node = msgspec.field(default_factory=Node)
    api: Api = msgspec.field(default_factory=Api)
    p2p: P2p = msgspec.field(default_factory=P2p)
    engine: Engine = msgspec.field(default_factory=Engine)
    hub: Hub = msgspec.field(default_factory=Hub)
    models: tuple[Model, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    embedding: Embedding = msgspec.field(default_factory=Embedding)
    routes: tuple[Route, ...] = ()
    routing: Routing = msgspec.field(default_factory=Routing)
    limits: Limits = msgspec.field(default_factory=Limits)
    wallet: Wallet = msgspec.field(default_factory=Wallet)
    log: Log = msgspec.field(default_factory=Log)
    metrics: Metrics = msgspec.field(default_factory=Metrics)
    otel: Otel = msgspec.field(default_factory=Otel)
