"""Words make the same accounts as in other wallets; wrong words are told apart, never repeated."""

from typing import Any

import pytest

from r3mes.chain.keys.bip32 import HARDENED, REMES, account_path, derive
from r3mes.chain.keys.signing import Secp256k1Signer, verify
from r3mes.chain.keys.wallet import Wallet, check_words
from r3mes.errors import MnemonicInvalid

ABANDON = "abandon " * 11 + "about"


def numbers(path: str) -> tuple[int, ...]:
    return tuple(
        int(step.rstrip("'")) | (HARDENED if step.endswith("'") else 0)
        for step in path.split("/")[1:]
    )


def test_every_path_of_the_vectors_gives_its_key(vectors: dict[str, Any]) -> None:
    for key in vectors["keys"]:
        secret = derive(bytes.fromhex(key["seed_hex"]), numbers(key["path"]))
        assert secret.hex() == key["privkey_hex"]
        assert Secp256k1Signer(secret).address == key["address"]


def test_words_give_the_first_account(vectors: dict[str, Any]) -> None:
    first = [key for key in vectors["keys"] if numbers(key["path"]) == account_path()]
    assert first
    for key in first:
        wallet = Wallet(key["mnemonic"])
        assert wallet.address == key["address"]
        assert wallet.pub.hex() == key["pubkey_hex"]


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ((), "e8f32e723decf4051aefac8e2c93c9c5b214313817cdb01a1494b917c8436b35"),
        ((HARDENED,), "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea"),
        ((HARDENED, 1), "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368"),
    ],
)
def test_derivation_equals_vector_1_of_bip32(path: tuple[int, ...], secret: str) -> None:
    assert derive(bytes(range(16)), path).hex() == secret


def test_own_coin_type_gives_another_account() -> None:
    wallet = Wallet(ABANDON, coin_type=REMES)
    assert wallet.coin_type == 9999
    assert wallet.address == "remes1xa0spck8qzdkr6e46xqg2k3fg8lukmtr7e3l5g"
    assert wallet.address != Wallet(ABANDON).address


def test_new_wallet_has_24_words_and_can_be_restored() -> None:
    wallet, other = Wallet.create(), Wallet.create()
    assert len(wallet.reveal_words().split()) == 24
    assert wallet.address != other.address
    assert Wallet(wallet.reveal_words()).address == wallet.address
    assert verify(wallet.alg, wallet.pub, b"m", wallet.sign(b"m"))


def test_case_and_spacing_do_not_matter() -> None:
    assert check_words("  " + ABANDON.upper().replace(" ", " \n ")) == ABANDON


@pytest.mark.parametrize("entropy", [16, 20, 24, 28, 32])
def test_all_lengths_of_bip39_are_taken(entropy: int) -> None:
    from mnemonic import Mnemonic

    words = Mnemonic("english").to_mnemonic(bytes(range(entropy)))
    assert Wallet(words).reveal_words() == words


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "0 words"),
        ("abandon " * 11, "11 words"),
        ("abandon " * 25, "25 words"),
        (ABANDON.replace("about", "abuot"), "word 12 is not in the BIP39 list"),
        ("xyzzy " + "abandon " * 10 + "plugh", "words 1, 12 are not in the BIP39 list"),
        ("abandon " * 12, "checksum"),
        ("about " + "abandon " * 11, "checksum"),
    ],
)
def test_wrong_words_are_told_apart_and_not_repeated(words: str, reason: str) -> None:
    with pytest.raises(MnemonicInvalid) as refused:
        Wallet(words)
    assert reason in refused.value.detail
    assert not {"abandon", "abuot", "xyzzy", "plugh"} & set(str(refused.value).split())


def test_words_do_not_show() -> None:
    wallet = Wallet(ABANDON)
    assert "abandon" not in repr(wallet)
    assert "abandon" not in str(wallet)
    assert repr(wallet) == f"Wallet({wallet.address})"
