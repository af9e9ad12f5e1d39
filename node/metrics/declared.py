"""Every metric of the node: its name, type, labels and meaning, in one place.

``docs/metrics.md`` is made from this file; the dashboard and the alerts may use nothing else.

Labels are bounded: models that are configured here (others are ``other``), codes of
`r3mes.errors.REGISTRY`, and words of a fixed list.  No label ever holds a peer, key, account,
address or request.

Source: prometheus.io, "Metric and label naming": base units, ``_total`` for counters, one prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Metric:
    """One family.

    Args:
        name: as it is scraped, without what a histogram appends (such as ``_bucket``).
        looked_at: its value is looked up at each scrape instead of counted as things happen.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    looked_at: bool = False


DECLARED: Final[dict[str, Metric]] = {}
"""All of them by name, in the order of the documentation."""


def _declare(metric: Metric) -> Metric:
    DECLARED[metric.name] = metric
    return metric


def _counted(name: str, meaning: str, *labels: str) -> Metric:
    return _declare(Metric(f"r3mes_{name}", "counter", meaning, labels))


def _histogram(name: str, buckets: tuple[float, ...], meaning: str, *labels: str) -> Metric:
    return _declare(Metric(f"r3mes_{name}", "histogram", meaning, labels, buckets))


def _looked_at(name: str, meaning: str, *labels: str) -> Metric:
    kind: Literal["counter", "gauge"] = "counter" if name.endswith("_total") else "gauge"
    return _declare(Metric(f"r3mes_{name}", kind, meaning, labels, looked_at=True))


# The node
BUILD_INFO = _looked_at("build_info", "Always 1; the versions are in the labels.",
                        "version", "python", "torch")  # fmt: skip
START_TIME = _looked_at("node_start_time_seconds", "When the node was started, unix seconds.")
READY = _looked_at("node_ready", "1 while requests can be answered, as /readyz says.")
STATE = _looked_at(
    "node_state",
    "1 for the state that the node is in: ready, not_ready, locked, drained or stopping.",
    "state",
)  # fmt: skip
WARNINGS = _looked_at(
    "warnings_active",
    "1 for each warning in the status: config_refused, needs_restart or clock_jumped.",
    "warning",
)  # fmt: skip
RELOAD_OK = _looked_at(
    "config_last_reload_success", "0 if the configuration that was to be reloaded was wrong."
)
RELOAD_AT = _looked_at(
    "config_last_reload_timestamp_seconds", "When the configuration was last read, unix seconds."
)
WATCHDOG_PINGS = _looked_at(
    "watchdog_pings_total", "Rounds in which every part without which the node is useless answered."
)
LOOP_LAG = _histogram(
    "event_loop_lag_seconds", SHORT, "How late a task woke up that wanted to at a certain time."
)
CHILD_READY = _looked_at("child_ready", "1 while this part of the node is up.", "child")
CHILD_RESTARTS = _looked_at(
    "child_restarts_total", "Times that this part of the node was started again.", "child"
)
MAILBOX_DEPTH = _looked_at("mailbox_depth", "Messages that wait for this actor.", "mailbox")
MAILBOX_PEAK = _looked_at("mailbox_peak_depth", "Most messages that ever waited.", "mailbox")
MAILBOX_RECEIVED = _looked_at(
    "mailbox_received_total", "Messages that this actor took up.", "mailbox"
)
MAILBOX_REFUSED = _looked_at(
    "mailbox_refused_total", "Messages turned away: full, draining or closed.", "mailbox"
)

# Requests
REQUESTS = _counted(
    "requests_total",
    "Requests that came to an end: ok, cancelled, refused or failed. What the node answers to its "
    "own applications is counted as api and as local.",
    "source", "model", "outcome",
)  # fmt: skip
REJECTIONS = _counted(
    "request_rejections_total", "Requests refused or failed, by the code of the error.",
    "source", "reason",
)  # fmt: skip
DURATION = _histogram(
    "request_duration_seconds", SECONDS, "From the request to its end.", "source", "model"
)
FIRST_TOKEN = _histogram(
    "time_to_first_token_seconds", SECONDS, "From the request to its first token.",
    "source", "model",
)  # fmt: skip
INTER_TOKEN = _histogram(
    "inter_token_latency_seconds", SHORT,
    "Seconds per token after the first; tokens that came together are one observation.",
    "source", "model",
)  # fmt: skip
QUEUE_WAIT = _histogram(
    "queue_wait_seconds", SECONDS, "How long requests waited for a slot of the model.", "model"
)
RUNNING = _looked_at("requests_running", "Answers being written here.", "model")
WAITING = _looked_at("requests_waiting", "Requests in the queue of the model.", "model")
TOKENS = _counted(
    "tokens_total", "Tokens of prompts that were accepted, and of answers.",
    "source", "model", "kind",
)  # fmt: skip
FINISHES = _counted(
    "finish_total", "Answers by how they ended: stop, length or cancelled.", "source", "reason"
)
DISCONNECTS = _counted(
    "client_disconnects_total", "Answers given up because the application went away."
)

# Models
MODELS_LOADED = _looked_at("models_loaded", "Models that can write now.")
MODEL_LOAD = _looked_at(
    "model_load_seconds", "How long the last load took, pauses between attempts included.", "model"
)
MODEL_MEMORY = _looked_at(
    "model_memory_bytes", "Main memory of the process that runs the model.", "model"
)
KV_BYTES = _looked_at(
    "model_kv_bytes",
    "Memory of keys and values: of answers and, as long as there is room, of earlier prompts.",
    "model",
)  # fmt: skip
PROMPT_TOKENS = _looked_at(
    "model_prompt_tokens_total", "Tokens of the prompts that the process got.", "model"
)
CACHED_TOKENS = _looked_at(
    "model_cached_tokens_total",
    "Tokens of prompts that were not read, as an earlier prompt of the same owner began alike.",
    "model",
)  # fmt: skip
ENGINE_RESTARTS = _looked_at(
    "engine_restarts_total", "Worker processes lost, by the code of the error.", "model", "reason"
)

# The network
PEERS = _looked_at("p2p_peers", "Peers with a connection.", "mode")
DIALS = _looked_at("p2p_dial_total", "Dials of peers: ok or failed.", "transport", "outcome")
ENVELOPE_REFUSALS = _counted(
    "envelope_refusals_total", "Signed requests of peers that did not hold, by what was wrong.",
    "reason",
)  # fmt: skip
ROUTES = _counted("route_decisions_total", "Who took a request: local, peer, or none.", "result")
FAILOVERS = _counted(
    "route_failovers_total", "Candidates that did not take a request, by the code of the error.",
    "reason",
)  # fmt: skip

# What is earned
RECEIPTS = _counted(
    "receipts_total",
    "Receipts kept, signed by both sides, or lost because the answer broke off.",
    "role", "outcome",
)  # fmt: skip
EARNED = _counted("earned_uremes_total", "Price of answers written for other nodes.")
SPENT = _counted("spent_uremes_total", "Price of answers written by other nodes.")
WALLET_BACKED_UP = _looked_at(
    "wallet_backed_up", "1 if somebody proved to have the words of the wallet."
)
WALLET_LOCKED = _looked_at("wallet_locked", "1 while the wallet cannot sign.")

# Surfaces
HTTP = _counted(
    "http_requests_total", "Requests to the HTTP API; the route is other for paths that it lacks.",
    "route", "method", "code",
)  # fmt: skip
RPC_CALLS = _counted(
    "rpc_calls_total",
    "Calls of JSON-RPC: ok, or the code of the error; the method is other where there is none.",
    "method", "code",
)  # fmt: skip
AUTH_FAILURES = _counted(
    "auth_failures_total", "Requests to the HTTP API turned away, by the code of the error.",
    "reason",
)  # fmt: skip

# The store
COMMIT_SECONDS = _histogram("db_commit_seconds", SHORT, "How long a commit took, fsync included.")
COMMIT_BATCH = _histogram("db_commit_transactions", BATCH, "Transactions that went in one commit.")
COMMIT_FAILURES = _counted("db_commit_failures_total", "Commits that failed; nothing was written.")
WRITABLE = _looked_at("db_writable", "1 while the store can write.")
DB_SIZE = _looked_at("db_size_bytes", "The database on the disk, its log included.")
DISK_FREE = _looked_at("disk_free_bytes", "What is free where the data directory is.")
BACKUP_LAST = _looked_at(
    "backup_last_success_timestamp_seconds", "When the last backup was whole; 0 if never."
)
