"""Every error that the node raises on purpose, and what each surface makes of it.

* R3mesError
  x Refused               the request was understood and turned down; the actor lives on
    + BadRequest          a field is missing, of the wrong type or out of range
    + TooLarge            a body or frame over its cap
    + RequestTimeout      the body did not come in time
    + RequestCancelled    somebody ended it by its id
    + ParseFailed         JSON-RPC: the message is not JSON
    + CallMalformed       JSON-RPC: the message is no call, or breaks a limit
    + MethodNotFound      JSON-RPC: no such method
    + Unauthenticated     no key, or a wrong one
    + Forbidden           the key lacks the scope; or a foreign Host or Origin
    + NotFound            no such route or object
    + AlreadyThere        a file of that name; it was left as it is
    + ModelNotFound       nobody that we know serves the model
    + ContextLengthExceeded   prompt and answer do not fit; never truncated in silence
    + EnvelopeRefused     a signed request that does not hold (forged, stale, for another)
    + EnvelopeReplayed    a signed request seen before
    + AlreadyAnswered     the same job again; its receipt comes along
    + PriceExceeded       the answer may cost more than the request allows
    + Overloaded          the queue is full or the deadline cannot be met
    + RequestQuarantined  the inference worker died twice under this request
    + RateLimited         more requests than a key or an address may send
    + NoPeer              peers that serve the model exist, none could be used
    + NotReady            starting or draining
  x ConfigError           the configuration is wrong
    + InsecureFile        a secret that others can read
  x WalletError           something about a wallet or keystore
    + PassphraseWrong
    + WalletExists        never overwritten
    + WalletMissing
    + MnemonicInvalid
    + PassphraseMissing   nobody to ask and no file that says it
    + WalletLocked        nobody has opened it since the node started
  x StoreError            the store cannot do it
    + StoreBusy           another process holds the write lock
    + StoreFull           the disk is full
    + StoreNewer          the data was written by a newer version
    + StoreCorrupt        the integrity check failed
    + DataDirLocked       another daemon runs on the data directory
    + BackupInvalid       a backup is damaged, cut off or not complete
  x NetworkError          between nodes
    + WireError           the peer sent nonsense
    + PeerUnreachable     could not be dialled, or not in time
    + PeerDisconnected    went away in the middle of an answer
    + PeerBanned          the operator wants nothing to do with it
    + PortInUse           a listen address is taken
    + NodeNotRunning      the command line finds nobody at the API's address
  x EngineError           the inference worker
    + ModelMissing        the directory or hub id cannot be found
    + ModelInvalid        corrupt, pickled, or wants remote code
    + ModelUnloaded       the operator has put the model away
    + EngineCrashed       the worker died under this request
    + HubUnreachable      where models are pulled from does not answer
    + ModelTooLarge       its weights do not fit into the memory that is free
  x ServiceError          the node as a service of systemd: a command of it failed
    + NoSystemd           this machine was not started by systemd
    + ServiceUnreachable  a service would not see the program, a model or a file
    + ServiceHasNode      the service has a node already; it is never overwritten
  x ActorError            something is wrong with an actor, not with the request
    + ActorCrashed        the actor died while handling this message
    + ActorStopped        the mailbox is closed
    + AskTimeout          no answer before the deadline
    + MailboxFull         back-pressure; try later
    + StartTimeout        a child was not ready in its time
    + RestartLimit        a supervisor gave up

Each class carries its `Kind`: the one registry that HTTP, JSON-RPC, the command line and
``docs/errors.md`` are made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True)
class Kind:
    """What an error is called on each surface.

    Args:
        id: stable name for people and documentation, ``R3-AREA-NNN``.
        code: stable name for programs: OpenAI's ``error.code``, and the code between nodes.
        http: HTTP status.
        rpc: JSON-RPC 2.0 error code.
        exit: exit status of the command line (sysexits.h where one fits).
        what: what happened, in general; an instance says it in particular.
        do: what the reader can do about it.
    """

    id: str
    code: str
    http: int
    rpc: int
    exit: int
    what: str
    do: str


REGISTRY: dict[str, type[R3mesError]] = {}
"""Every error class by its `Kind.code`."""


class R3mesError(Exception):
    """Base of every error the node raises on purpose.

    Args:
        detail: what happened in this case, and why, in a sentence without a full stop.
        do: what to do about it in this case; the kind's general advice if None.
        retry_after_s: seconds after which a repetition may succeed; None if it will not by itself.
        param: the request field that is at fault, for surfaces that can point at it.
    """

    kind: ClassVar[Kind] = Kind(
        "R3-NODE-001", "internal_error", 500, -32603, 70,
        "something failed that should not",
        "look for the incident id in the node's log and report it",
    )  # fmt: skip

    def __init__(
        self,
        detail: str = "",
        *,
        do: str | None = None,
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(detail or self.kind.what)
        self.detail = detail or self.kind.what
        self.do = do or self.kind.do
        self.retry_after_s = retry_after_s
        self.param = param
        self.incident: str | None = None
        """Of an error that nobody foresaw: finds its traceback in the log."""

    def __init_subclass__(cls) -> None:
        if "kind" not in cls.__dict__:
            raise TypeError(f"{cls.__name__} needs a kind of its own")
        if cls.kind.code in REGISTRY:
            raise TypeError(f"{cls.kind.code} is taken by {REGISTRY[cls.kind.code].__name__}")
        REGISTRY[cls.kind.code] = cls

    def again(self) -> Self:
        """The same for one more who is told: an instance raised twice gathers tracebacks."""
        return type(self)(
            self.detail, do=self.do, retry_after_s=self.retry_after_s, param=self.param
        )

    def __str__(self) -> str:
        return f"{self.kind.id}: {self.detail}. {self.do[:1].upper()}{self.do[1:]}."


REGISTRY[R3mesError.kind.code] = R3mesError

# Kind(id, code, http, rpc, exit, what, do): one line a field would hide the table.
# fmt: off


class Refused(R3mesError):
    """The request was understood and turned down."""

    kind = Kind("R3-REQ-000", "refused", 400, -32600, 1,
                "the request was refused", "change the request")


class BadRequest(Refused):
    """A field is missing, of the wrong type or out of range."""

    kind = Kind("R3-REQ-001", "invalid_request", 400, -32602, 2,
                "the request is not valid", "correct the field named here")


class TooLarge(Refused):
    """A body or frame over its cap."""

    kind = Kind("R3-REQ-002", "request_too_large", 413, -32602, 65,
                "the request is larger than this node takes", "send less than the limit named here")


class RequestTimeout(Refused):
    """The body did not come in time."""

    kind = Kind("R3-REQ-003", "request_timeout", 408, -32602, 75,
                "the request did not come in time", "send it again, without pauses")


class RequestCancelled(Refused):
    """Somebody with a key ended the request by its id."""

    kind = Kind("R3-REQ-005", "request_cancelled", 499, -32017, 75,
                "the request was cancelled", "ask again if that was not meant")


class ParseFailed(Refused):
    """JSON-RPC: the message is not JSON."""

    kind = Kind("R3-RPC-001", "parse_error", 400, -32700, 65,
                "the message is not JSON in UTF-8", "send one JSON object, or an array of them")


class CallMalformed(Refused):
    """JSON-RPC: the message is no call, or breaks a limit on batches or nesting."""

    kind = Kind("R3-RPC-002", "invalid_call", 400, -32600, 65,
                "the message is not a JSON-RPC 2.0 call",
                "send jsonrpc, method, params and id as docs/rpc.md shows")


class MethodNotFound(Refused):
    """JSON-RPC: no such method."""

    kind = Kind("R3-RPC-003", "method_not_found", 404, -32601, 64,
                "there is no such method", "choose one of docs/rpc.md, or ask rpc.discover")


class Unauthenticated(Refused):
    """No key, or a wrong one."""

    kind = Kind("R3-AUTH-001", "invalid_api_key", 401, -32001, 77,
                "no valid API key came with the request",
                "send the key from the file that `r3mes config show api.key_file` names as "
                "'Authorization: Bearer …'")


class Forbidden(Refused):
    """The key lacks the scope; or a foreign Host or Origin."""

    kind = Kind("R3-AUTH-002", "permission_denied", 403, -32002, 77,
                "this is not allowed", "use a key that has the scope, from this machine")


class NotFound(Refused):
    """No such route or object."""

    kind = Kind("R3-REQ-004", "not_found", 404, -32016, 66,
                "there is no such thing here", "look at the list of routes in docs/http.md")


class AlreadyThere(Refused):
    """A file of that name is there; it was left as it is."""

    kind = Kind("R3-REQ-006", "already_there", 409, -32018, 73,
                "it exists already", "choose another name; nothing was overwritten")


class ModelNotFound(Refused):
    """Nobody that we know serves the model."""

    kind = Kind("R3-MODEL-001", "model_not_found", 404, -32011, 66,
                "no node that we know serves this model", "choose one of `r3mes models`")


class ContextLengthExceeded(Refused):
    """Prompt and answer do not fit the model; never truncated in silence."""

    kind = Kind("R3-MODEL-002", "context_length_exceeded", 400, -32014, 65,
                "the prompt is longer than the model's context",
                "shorten the messages or lower max_tokens")


class EnvelopeRefused(Refused):
    """A signed request that does not hold: forged, stale, or meant for another node."""

    kind = Kind("R3-SIGN-001", "envelope_refused", 403, -32003, 77,
                "the signed request does not hold",
                "check both clocks (30 s apart at most) and sign again")

    reason = "malformed"
    """What did not hold, in a word, for counting: one of a few that the verifier knows."""

    def because(self, reason: str) -> Self:
        """Itself, for ``reason``."""
        self.reason = reason
        return self


class EnvelopeReplayed(Refused):
    """A signed request that was seen before."""

    kind = Kind("R3-SIGN-002", "envelope_replayed", 409, -32004, 77,
                "this signed request was used before", "sign a new request with a new nonce")


class AlreadyAnswered(Refused):
    """The same job again: (sub, idem) is known; its receipt comes along when it is finished."""

    kind = Kind("R3-SIGN-003", "already_answered", 409, -32005, 75,
                "this job was taken before", "use the receipt, or ask anew with a new idem")

    receipt: object | None = None
    """The ledger's receipt (`actors.ledger.Receipt`) if the job is finished; None while it runs."""


class PriceExceeded(Refused):
    """The answer may cost more than the signed request allows."""

    kind = Kind("R3-PAY-001", "price_exceeded", 402, -32020, 77,
                "the answer may cost more than the request allows",
                "lower max_tokens or allow a higher price")


class Overloaded(Refused):
    """The queue is full or the deadline cannot be met."""

    kind = Kind("R3-LOAD-001", "overloaded", 503, -32012, 75,
                "all slots are busy and the queue is full", "try again after the time named here")


class RequestQuarantined(Refused):
    """Workers died under this request, so that it is not tried again for a while."""

    kind = Kind("R3-ENGINE-007", "request_quarantined", 422, -32079, 65,
                "the inference worker died under this request again and again",
                "change the request; report it with the node's log if it should work")


class RateLimited(Refused):
    """More requests than the limit, of a key or from an address."""

    kind = Kind("R3-LOAD-002", "rate_limit_exceeded", 429, -32013, 75,
                "too many requests", "try again after the time named here")


class NoPeer(Refused):
    """Peers that serve the model exist, but none could be used."""

    kind = Kind("R3-NET-001", "no_peer", 503, -32010, 69,
                "no peer could serve the request", "look at `r3mes peers` and try again")


class NotReady(Refused):
    """Starting or draining."""

    kind = Kind("R3-NODE-002", "not_ready", 503, -32030, 75,
                "the node is starting or stopping", "try again in a few seconds")


class ConfigError(R3mesError):
    """The configuration is wrong."""

    kind = Kind("R3-CONF-001", "config_invalid", 500, -32040, 78,
                "the configuration is wrong", "correct it, then run `r3mes config check`")


class InsecureFile(ConfigError):
    """A file with a secret that other users can read."""

    kind = Kind("R3-CONF-002", "insecure_file", 500, -32041, 78,
                "a secret file can be read by others", "run chmod 600 on it")


class WalletError(R3mesError):
    """Something about a wallet or its keystore."""

    kind = Kind("R3-WALLET-001", "wallet_error", 409, -32028, 66,
                "the wallet cannot be used", "look at `r3mes wallet`")


class PassphraseWrong(WalletError):
    """The passphrase does not open the keystore."""

    kind = Kind("R3-WALLET-002", "passphrase_wrong", 403, -32023, 77,
                "wrong passphrase", "try again; nobody can recover a forgotten passphrase, but the "
                "24 words restore the wallet")


class WalletExists(WalletError):
    """A keystore is there already; it is never overwritten."""

    kind = Kind("R3-WALLET-003", "wallet_exists", 409, -32024, 73,
                "a wallet of this name exists", "choose another name; nothing was overwritten")


class WalletMissing(WalletError):
    """No keystore of this name."""

    kind = Kind("R3-WALLET-004", "wallet_missing", 404, -32025, 66,
                "there is no such wallet",
                "`r3mes wallet list` shows which there are, `r3mes init` makes the node's own")


class MnemonicInvalid(WalletError):
    """The words are not a BIP39 mnemonic."""

    kind = Kind("R3-WALLET-005", "mnemonic_invalid", 400, -32026, 65,
                "these words are not a valid mnemonic", "check spelling and order of the words")


class PassphraseMissing(WalletError):
    """There is nobody to ask for the passphrase, and no file that says it."""

    kind = Kind("R3-WALLET-006", "passphrase_missing", 409, -32027, 77,
                "the wallet's passphrase is not known",
                "name a file with --passphrase-file, or set wallet.passphrase_file")


class WalletLocked(WalletError):
    """Nobody has opened the wallet since the node started, or somebody locked it."""

    kind = Kind("R3-WALLET-007", "wallet_locked", 409, -32022, 75,
                "the wallet is locked", "run `r3mes wallet unlock` on the node's machine")


class StoreError(R3mesError):
    """The store cannot do it."""

    kind = Kind("R3-STORE-001", "store_error", 503, -32050, 74,
                "the store failed", "look at the node's log")


class StoreBusy(StoreError):
    """Another process holds the write lock of the database."""

    kind = Kind("R3-STORE-002", "store_busy", 503, -32051, 75,
                "another process holds the database's write lock",
                "end the program that writes to the database, then try again")


class StoreFull(StoreError):
    """No space is left on the disk."""

    kind = Kind("R3-STORE-003", "store_full", 507, -32052, 74,
                "the disk is full", "free some space; the node recovers by itself")


class StoreNewer(StoreError):
    """The data was written by a newer version."""

    kind = Kind("R3-STORE-004", "store_newer", 500, -32053, 78,
                "the data was written by a newer version",
                "install that version, or restore the backup made before the upgrade")


class StoreCorrupt(StoreError):
    """The integrity check of the database failed."""

    kind = Kind("R3-STORE-005", "store_corrupt", 500, -32054, 74,
                "the database is damaged", "restore the newest backup from the backups folder")


class BackupInvalid(StoreError):
    """A backup that is damaged, cut off or not complete."""

    kind = Kind("R3-STORE-007", "backup_invalid", 400, -32056, 65,
                "the backup cannot be used", "use another backup; nothing was changed")


class DataDirLocked(StoreError):
    """Another daemon runs on this data directory."""

    kind = Kind("R3-STORE-006", "datadir_locked", 409, -32055, 75,
                "another node runs on this data directory",
                "stop it first, or choose another directory with --datadir")


class NetworkError(R3mesError):
    """Something between nodes."""

    kind = Kind("R3-NET-000", "network_error", 502, -32060, 69,
                "the network failed", "look at `r3mes peers`")


class WireError(NetworkError):
    """The peer sent something that its protocol does not allow."""

    kind = Kind("R3-NET-002", "wire_error", 502, -32061, 76,
                "a peer sent nonsense", "nothing: the peer is avoided")


class PeerUnreachable(NetworkError):
    """The peer could not be dialled, or not in time."""

    kind = Kind("R3-NET-003", "peer_unreachable", 502, -32062, 69,
                "the peer cannot be reached", "check its address and that its port is open")


class PeerDisconnected(NetworkError):
    """The peer went away in the middle of an answer."""

    kind = Kind("R3-NET-004", "peer_disconnected", 502, -32015, 75,
                "the serving peer went away before the answer was complete", "ask again")


class PortInUse(NetworkError):
    """A listen address is taken by another program."""

    kind = Kind("R3-NET-005", "port_in_use", 500, -32063, 75,
                "the port is in use", "stop the other program or choose another port")


class PeerBanned(NetworkError):
    """The operator wants nothing to do with the peer."""

    kind = Kind("R3-NET-006", "peer_banned", 403, -32065, 77,
                "the peer is banned", "lift the ban if that was not meant")


class PeerTooOld(NetworkError):
    """The peer speaks a version of the protocol that cannot carry what is asked."""

    kind = Kind("R3-NET-007", "peer_too_old", 502, -32066, 76,
                "the peer's version is too old for this request", "ask again without what is new")


class NodeNotRunning(NetworkError):
    """The command line finds nobody at the API's address."""

    kind = Kind("R3-NODE-003", "node_not_running", 503, -32064, 69,
                "the node does not run", "start it with `r3mes run`")


class EngineError(R3mesError):
    """The inference worker."""

    kind = Kind("R3-ENGINE-001", "engine_error", 500, -32070, 70,
                "the inference engine failed", "look at the node's log; it is restarted by itself")


class ModelMissing(EngineError):
    """The model's directory or hub id cannot be found."""

    kind = Kind("R3-ENGINE-002", "model_missing", 500, -32071, 78,
                "the model cannot be found", "check the id in [[models]] of the configuration")


class ModelInvalid(EngineError):
    """The model is corrupt, pickled, or wants to run code of its own."""

    kind = Kind("R3-ENGINE-003", "model_invalid", 500, -32072, 78,
                "the model cannot be loaded safely",
                "use a copy with safetensors weights and an architecture that transformers knows")


class EngineCrashed(EngineError):
    """The worker died while it worked on this request."""

    kind = Kind("R3-ENGINE-004", "engine_crashed", 503, -32073, 75,
                "the inference worker died", "try again; the worker is restarted")


class HubUnreachable(EngineError):
    """Where models are pulled from cannot be reached, or speaks another language."""

    kind = Kind("R3-ENGINE-008", "hub_unreachable", 502, -32077, 69,
                "the hub that models are pulled from cannot be reached",
                "check the network and hub.endpoint, then try again: a pull goes on where it was")


class ModelTooLarge(EngineError):
    """The weights are larger than the memory that there is for them."""

    kind = Kind("R3-ENGINE-006", "model_too_large", 503, -32078, 69,
                "the model does not fit into memory",
                "free some memory, choose a smaller model, or serve it on another machine")


class ModelUnloaded(EngineError):
    """The operator has put the model away."""

    kind = Kind("R3-ENGINE-005", "model_unloaded", 503, -32074, 69,
                "the model is not loaded on this node",
                "have the operator load it again (`model_load`)")


class EngineMissing(EngineError):
    """What would run the model is not installed, or not on this machine."""

    kind = Kind("R3-ENGINE-020", "engine_missing", 503, -32075, 78,
                "there is no engine for the model on this node",
                "install torch and transformers, or name another engine in [[models]]")


class UpstreamFailed(EngineError):
    """The server that runs the model did not answer, or not as it should."""

    kind = Kind("R3-ENGINE-021", "upstream_failed", 502, -32076, 69,
                "the server behind the model failed",
                "look at that server; this node asks it again by itself")


class ServiceError(R3mesError):
    """Something about the node as a service of systemd."""

    kind = Kind("R3-SERVICE-001", "service_failed", 500, -32090, 70,
                "the service could not be set up", "mend what is named here, then run it again")


class NoSystemd(ServiceError):
    """This machine was not started by systemd, so that it has no services."""

    kind = Kind("R3-SERVICE-002", "no_systemd", 501, -32091, 69,
                "no systemd runs on this machine",
                "have `r3mes run` started by what starts programs here, such as a container")


class ServiceUnreachable(ServiceError):
    """A service would not see something that the node needs."""

    kind = Kind("R3-SERVICE-003", "service_unreachable", 409, -32092, 78,
                "a service would not reach what is named above",
                "run the commands there, then this one again")


class ServiceHasNode(ServiceError):
    """The service has a node already."""

    kind = Kind("R3-SERVICE-004", "service_has_node", 409, -32093, 73,
                "the service has a node already", "keep it, or move its data away first")


class ActorError(R3mesError):
    """Something is wrong with an actor, not with the request."""

    kind = Kind("R3-ACTOR-000", "actor_error", 500, -32080, 70,
                "a part of the node failed", "try again; it is restarted by itself")


class ActorCrashed(ActorError):
    """The actor died while handling this message."""

    kind = Kind("R3-ACTOR-001", "actor_crashed", 500, -32081, 70,
                "a part of the node crashed under this request",
                "try again; it is restarted by itself")


class ActorStopped(ActorError):
    """The mailbox is closed."""

    kind = Kind("R3-ACTOR-002", "actor_stopped", 503, -32082, 75,
                "a part of the node is stopped", "try again in a few seconds")


class AskTimeout(ActorError):
    """No answer before the deadline."""

    kind = Kind("R3-ACTOR-003", "ask_timeout", 504, -32083, 75,
                "a part of the node did not answer in time", "try again")


class MailboxFull(ActorError):
    """The mailbox is at capacity."""

    kind = Kind("R3-ACTOR-004", "mailbox_full", 503, -32084, 75,
                "a part of the node has too much to do", "try again in a few seconds")


class RestartLimit(ActorError):
    """A supervisor saw too many restarts and gave up."""

    kind = Kind("R3-ACTOR-005", "restart_limit", 500, -32085, 70,
                "a part of the node failed again and again", "look at the node's log for the cause")


class StartTimeout(ActorError):
    """A part of the node was not ready in its time."""

    kind = Kind("R3-ACTOR-006", "start_timeout", 500, -32086, 70,
                "a part of the node did not start in time", "look at the node's log for the cause")
