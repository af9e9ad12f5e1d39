"""Takes out of a text what must never be in a log: keys, tokens, passphrases, wallet words.

It is the last net, not the first: nothing logs a secret on purpose, but libraries put what they
were given into their errors.  What has a form of its own is recognised by it; the rest by the name
in front of it.
"""

from __future__ import annotations

import re
from functools import cache

API_KEY = re.compile(r"r3k_\w{8}_\w{8,}")
_FORMS = (
    (API_KEY, lambda found: f"{found[0][:12]}_…"),  # the id may be shown
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), lambda _: "hf_…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+(?!r3k_)[\w.~+/=-]{8,}"), lambda found: f"{found[1]} …"),
    (
        re.compile(
            r"(?i)\b(pass(?:phrase|word|wd)|mnemonic|secret|private_key|(?:api|access|auth)_?(?:key|"
            r"token))([\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;}\])]+)"
        ),
        lambda found: f"{found[1]}{found[2]}…",
    ),
)
_WORDS = re.compile(r"\b[a-z]{3,8}(?:[\s,]+[a-z]{3,8}){11,}\b")
WORDS = 12
"""So many words of the BIP39 list in a row are a wallet, and never a sentence."""


def masked(text: str) -> str:
    """``text`` without secrets; an API key keeps its id."""
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    return _WORDS.sub(lambda found: _without_words(found[0]), text)


def _without_words(text: str) -> str:
    """``text``, a run of short words, without the part that spells a wallet."""
    parts = re.split(r"([\s,]+)", text)  # words at even places, what is between at odd ones
    known = _word_list()
    kept: list[str] = []
    run: list[str] = []
    for word, between in zip(parts[::2], [*parts[1::2], ""], strict=True):
        if word not in known:
            kept += [*_shown(run), word + between]
            run = []
        else:
            run.append(word + between)
    return "".join([*kept, *_shown(run)])


def _shown(run: list[str]) -> list[str]:
    return run if len(run) < WORDS else ["(wallet words) "]


@cache
def _word_list() -> frozenset[str]:
    from mnemonic import Mnemonic  # here: hardly any line has twelve such words

    return frozenset(Mnemonic("english").wordlist)
