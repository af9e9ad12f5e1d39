"""How fast signed requests are checked on one core, and whether every attack is refused.

The bare signature check, whole verifications and refusals run in turn, in small blocks, so that
what else the machine does falls on all of them.  Rates are per second of processor time of this
one thread, hence per core.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import median

from nacl.bindings import crypto_sign_open

from benchmarks.attacks import (
    ALGORITHMS,
    CASES,
    CHAIN,
    MODEL,
    NODE,
    OTHER_NODE,
    Scene,
    flipped,
)
from benchmarks.report import arguments, machine, print_result, say
from r3mes.actors.requests.binding import bind, verify_binding
from r3mes.actors.requests.canonical import framed
from r3mes.actors.requests.delegation import Delegation, decode_delegation, delegate
from r3mes.actors.requests.envelope import DOMAIN, RequestVerifier, sign_request
from r3mes.actors.requests.job import InferJob
from r3mes.actors.requests.receipt import Result, sign_result, verify_result
from r3mes.actors.requests.replay import ReplayGuard
from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer, Signer
from r3mes.errors import R3mesError, Refused
from r3mes.ids import PeerId, RequestHash

BLOCK = 200
BODY = b"x" * 2048
EPOCH = b"1st-boot"


def wires(signers: Sequence[Signer], audience: PeerId = NODE) -> list[bytes]:
    """One block of requests with fresh nonces, from several customers."""
    return [
        sign_request(
            signers[at % len(signers)],
            chain=CHAIN,
            audience=audience,
            epoch=EPOCH,
            model=MODEL,
            body=BODY,
            max_tokens=100,
            max_price=1_000,
            now_ms=now_ms(),
        ).wire
        for at in range(BLOCK)
    ]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def per_s(work: Callable[[], None]) -> float:
    """Rate of the ``BLOCK`` operations that ``work`` does."""
    started = time.process_time()
    work()
    return BLOCK / (time.process_time() - started)


def rates(rounds: int) -> dict[str, float]:
    machines = [Ed25519Signer(bytes([at]) * 32) for at in range(1, 17)]
    wallets = [Secp256k1Signer(bytes([at]) * 32) for at in range(1, 17)]
    guard = ReplayGuard(now_ms)
    verifier = RequestVerifier(
        chain=CHAIN,
        audience=NODE,
        epoch=EPOCH,
        models=lambda model: model == MODEL,
        now_ms=now_ms,
        guard=guard,
    )

    def bare(signed: Sequence[tuple[bytes, bytes]]) -> None:
        for message, pub in signed:
            crypto_sign_open(message, pub)

    def whole(block: Sequence[bytes]) -> None:
        for wire in block:
            verifier.verify(wire)

    def refuse(block: Sequence[bytes]) -> None:
        for wire in block:
            try:
                verifier.verify(wire)
            except Refused:
                continue
            raise AssertionError("a request for another node was accepted")

    rows: list[tuple[float, float, float, float]] = []
    for _ in range(rounds):
        ed25519, secp256k1 = wires(machines), wires(wallets)
        elsewhere = wires(machines, OTHER_NODE)
        bare_block = [signed_header(machines[at % 16]) for at in range(BLOCK)]
        rows.append(
            (
                per_s(lambda: bare(bare_block)),  # noqa: B023 called at once
                per_s(lambda: whole(ed25519)),  # noqa: B023
                per_s(lambda: whole(secp256k1)),  # noqa: B023
                per_s(lambda: refuse(elsewhere)),  # noqa: B023
            )
        )
    signature, verify_ed25519, verify_secp256k1, reject = (
        median(column) for column in zip(*rows, strict=True)
    )
    return {
        "signature_ed25519_per_s": round(signature),
        "verify_ed25519_per_s": round(verify_ed25519),
        "verify_secp256k1_per_s": round(verify_secp256k1),
        "reject_audience_per_s": round(reject),
        "ratio_ed25519": round(median(row[1] / row[0] for row in rows), 3),
    }


def signed_header(signer: Signer) -> tuple[bytes, bytes]:
    """What libsodium is given for one request: signature and message, and the key."""
    header = sign_request(
        signer,
        chain=CHAIN,
        audience=NODE,
        epoch=EPOCH,
        model=MODEL,
        body=BODY,
        max_tokens=100,
        max_price=1_000,
        now_ms=now_ms(),
    ).header
    message = framed(DOMAIN, header.encode())
    return signer.sign(message) + message, signer.pub


def flips_accepted(bits: int) -> int:
    """How many of the first ``bits`` single-bit changes get through, for each algorithm."""
    accepted = 0
    for alg in ALGORITHMS:
        scene = Scene(alg)
        wire = scene.request(body=bytes(2_200)).wire
        scene.verifier = scene.boot()
        for bit in range(bits):
            try:
                scene.verifier.verify(flipped(wire, bit))
            except Refused:
                continue
            accepted += 1
    return accepted


def forged_nonces_kept(count: int) -> int:
    """What requests without a valid signature leave in the memory of nonces."""
    scene = Scene("ed25519")
    guard = ReplayGuard(now_ms)
    verifier = RequestVerifier(
        chain=CHAIN,
        audience=NODE,
        epoch=EPOCH,
        models=lambda _: True,
        now_ms=lambda: scene.now_ms,
        guard=guard,
    )
    for _ in range(count):
        try:
            verifier.verify(flipped(scene.request().wire, 0x140 * 8))
        except Refused:
            continue
    return len(guard)


def untyped_errors(inputs: int) -> int:
    """How many hostile inputs make a decoder raise anything but a refusal."""
    rng = random.Random(3)  # noqa: S311 reproducible, not secret
    scene = Scene("ed25519")
    signer, node = scene.victim, Ed25519Signer(b"n" * 32)
    result = sign_result(
        signer,
        Result(RequestHash(bytes(32)), bytes(32), 1, 2, 3, MODEL, b"", "stop", signer.address),
    )
    lent = Delegation(CHAIN, signer.address, signer.pub, (NODE,), 9, 1_764_000_000, 1_764_000_900)
    targets: list[tuple[bytes, Callable[[bytes], object]]] = [
        (scene.request(body=b"x" * 64).wire, scene.verifier.verify),
        (result.result, lambda data: verify_result(data, result.signature, wallet=signer.address)),
        (result.signature, lambda data: verify_result(result.result, data, wallet=signer.address)),
        (bind(signer, node), lambda data: verify_binding(data, peer=NODE)),
        (delegate(signer, lent), decode_delegation),
        (InferJob(b"[]", (1, 2), 0.5, 0.9, 3, 4, ("a",)).encode(), InferJob.decode),
    ]
    wrong = 0
    for at in range(inputs):
        genuine, decode = targets[at % len(targets)]
        try:
            decode(mutated(rng, genuine))
        except R3mesError as error:
            wrong += not isinstance(error, Refused)
        except Exception:  # noqa: BLE001 what is counted here
            wrong += 1
    return wrong


def mutated(rng: random.Random, data: bytes) -> bytes:
    """``data`` with a piece replaced by random bytes, sometimes nothing but these."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randrange(4)) + data[start + rng.randrange(4) :]


def main() -> None:
    flags = arguments("Rates of signed requests on one core, and the attacks on them.")
    rounds, bits, inputs = (8, 4_000, 5_000) if flags.quick else (60, 20_000, 20_000)
    say(f"{rounds} rounds of {BLOCK} requests each …")
    figures: dict[str, object] = dict(rates(rounds))
    say(f"{len(CASES)} attacks, {2 * bits} single-bit changes, {inputs} hostile inputs …")
    missed = [f"{attack.name} ({alg})" for attack, alg in CASES if not attack.refused(alg)]
    figures |= {
        "attacks": len(CASES),
        "attacks_refused": len(CASES) - len(missed),
        "attacks_missed": missed,
        "bit_flips": 2 * bits,
        "bit_flips_accepted": flips_accepted(bits),
        "forged": 500,
        "forged_nonces_kept": forged_nonces_kept(500),
        "hostile_inputs": inputs,
        "hostile_inputs_untyped_errors": untyped_errors(inputs),
        "body_bytes": len(BODY),
        "rate_is": "operations per second of processor time of one thread",
        "rounds": rounds,
        "machine": machine(),
    }
    if not flags.json:
        for name, value in figures.items():
            say(f"{name:32} {value}")
    print_result(figures)


if __name__ == "__main__":
    main()
