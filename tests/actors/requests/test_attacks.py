"""Every attack on a signed request is refused, for its own reason, on each algorithm."""

import pytest

from benchmarks.attacks import CASES, Attack


@pytest.mark.parametrize(
    ("attack", "alg"), CASES, ids=[f"{alg}: {attack.name}" for attack, alg in CASES]
)
def test_attack_is_refused(attack: Attack, alg: str) -> None:
    error = attack.refusal(alg)
    assert type(error) is attack.error
    assert attack.reason in error.detail


def test_list_is_complete() -> None:
    algs = [alg for _, alg in CASES]
    assert (algs.count("ed25519"), algs.count("secp256k1")) == (20, 19)
