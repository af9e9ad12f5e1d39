"""Templates, tokens to text and stop strings, for every way a stream can be cut."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from r3mes.actors.inference import interrupt, text
from r3mes.actors.inference.detokenise import StopScanner, Writer
from r3mes.actors.inference.protocol import Loaded
from r3mes.actors.inference.template import PLAIN, ChatTemplate
from r3mes.actors.inference.text import Text
from r3mes.errors import BadRequest, ModelInvalid

HELLO = [{"role": "user", "content": "hi"}]


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, by the byte-level alphabet of GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + at) for at, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab={letters[b]: b for b in range(256)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


BYTES = byte_tokenizer()


def shown(data: bytes, stops: tuple[str, ...] = (), emitted: int = 0) -> list[str]:
    writer = Writer(BYTES, stops, tuple(data[:emitted]))
    pieces = []
    for byte in data[emitted:]:
        pieces.append(writer.feed(byte))
        if writer.stopped:
            return pieces
    return [*pieces, writer.finish()]


@given(st.text(max_size=40))
def test_valid_text_comes_whole_and_never_half(value: str) -> None:
    pieces = shown(value.encode())
    assert "".join(pieces) == value
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces) or (
        "\N{REPLACEMENT CHARACTER}" in value
    )


@given(st.binary(max_size=200))
def test_broken_bytes_neither_stall_nor_lose_what_follows(data: bytes) -> None:
    pieces = shown(data + b"end")
    assert "".join(pieces).endswith("end")
    assert "".join(pieces) == data.decode(errors="replace") + "end"


@given(st.text(max_size=30), st.data())
def test_continued_text_is_the_rest_of_the_same(value: str, data: st.DataObject) -> None:
    encoded = value.encode()
    at = data.draw(st.integers(0, len(encoded)))
    first = "".join(shown(encoded)[:at])
    assert first + "".join(shown(encoded, emitted=at)) == value


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_strings_are_found_wherever_they_are_cut(value: str, stops: list[str]) -> None:
    scanner, got = StopScanner(stops), ""
    for letter in value:
        got += scanner.feed(letter)
        if scanner.stopped:
            break
    else:
        got += scanner.flush()
    ends = [value.find(stop) + len(stop) for stop in stops if stop in value]
    earliest = min(ends, default=None)
    assert scanner.stopped == (earliest is not None)
    if earliest is None:
        assert got == value
    else:
        seen = value[:earliest]  # the letter that completed a stop string was the last one read
        assert got == seen[: min(seen.find(stop) for stop in stops if stop in seen)]


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        (PLAIN, HELLO, "user: hi\nassistant:"),
        ("{{ messages[0].content | tojson }}", [{"content": "<é>"}], '"<é>"'),
        ("{% generation %}a{% endgeneration %}{{ bos_token }}", HELLO, "a<s>"),
        ("{% for m in messages %}{% break %}{% endfor %}x", HELLO, "x"),
        ("  {% if true %}\ny\n  {% endif %}", HELLO, "y\n"),
        ("{{ strftime_now('%Y')|length }}", HELLO, "4"),
        (
            "{{ messages[0].content }}",
            [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "a\nb",
        ),
    ],
)
def test_templates_render_as_in_transformers(
    source: str, messages: list[dict[str, object]], expected: str
) -> None:
    assert ChatTemplate(source, [("bos_token", "<s>")]).render(messages) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 9 ** 9 }}",
        "{{ undefined.attribute }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_templates_that_go_wrong_refuse_the_request(source: str) -> None:
    with pytest.raises(BadRequest, match="chat template"):
        ChatTemplate(source, []).render(HELLO)


GREEDY = [
    "{{ '%90000000d' % 1 }}",
    "{{ '%*d' % (90000000, 1) }}",
    "{{ '{:90000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 90000000) }}",
    "{{ '%90000000d' | format(1) }}",
    "{{ 'x'.ljust(90000000) }}",
    "{{ 'x'.zfill(90000000) }}",
    "{{ '\t'.expandtabs(90000000) }}",
    "{{ 'x' | center(90000000) }}",
    "{{ 'x' | indent(90000000, true) }}",
    "{{ ['x'] | map('center', 90000000) | list }}",
    "{{ [1] | batch(90000000, 0) | list }}",
    "{{ (1).to_bytes(90000000, 'big') }}",
    "{{ ('x' * 100000) | replace('x', 'y' * 1000) }}",
    "{{ ('x' * 100000).replace('x', 'y' * 1000) }}",
    "{{ range(99999) | join('y' * 1000) }}",
    "{{ ('y' * 1000).join(('x' * 99999) | list) }}",
    "{{ [[['x' * 100000] * 100] * 100] }}",
    "{{ [[['x' * 100000] * 100] * 100] | tojson }}",
    "{{ [[['x' * 100000] * 100] * 100] ~ 'x' }}",
    "{% set n = namespace(a='x') %}{% for i in range(40) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "{% set n = namespace(a='x') %}{% for i in range(40) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% set n = namespace(a='x') %}{% for i in range(40) %}"
    "{% set a %}{{ n.a }}{{ n.a }}{% endset %}{% set n.a = a %}{% endfor %}",
    "{% set n = namespace(a=[]) %}{% set x = 'x' * 1000000 %}{% for i in range(9999) %}"
    "{% set n.a = n.a + [x ~ i] %}{% endfor %}",
]


@pytest.mark.parametrize("source", GREEDY)
def test_templates_that_want_much_memory_are_refused(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadRequest, match=r"chat template.*(too large|too much)"):
        ChatTemplate(source, []).render(HELLO)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '%5d|%s' % (1, 'a') }}", "    1|a"),
        ("{{ '{:>3}{a}'.format(1, a=2) }}", "  12"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ ['a', 'b'] | join(', ') }}", "a, b"),
        ("{{ ('ab' * 100000) | replace('a', '') | length }}", "100000"),
        ("{{ messages | map(attribute='role') | join }}", "user"),
        ("{{ 1 ~ none ~ [2] }}", "1None[2]"),
        ("{{ 'a'.center(3) }}{{ 1 + 1 }}{{ 7 % 4 }}", " a 23"),
    ],
)
def test_what_templates_do_with_text_stays_possible(source: str, expected: str) -> None:
    assert ChatTemplate(source, []).render(HELLO) == expected


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def called(arguments: object) -> list[dict[str, object]]:
    return [{"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}]


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        ("{{ tools[0].function.name }}", HELLO, "f"),
        ("{{ tools | tojson }}", HELLO, json.dumps(TOOLS)),
        ("{{ messages[0].tool_calls[0].function.arguments.a }}", called('{"a": 5}'), "5"),
        ("{{ messages[0].tool_calls[0].function.arguments.a }}", called({"a": 5}), "5"),
    ],
)
def test_templates_are_shown_tools_and_calls(
    source: str, messages: list[dict[str, object]], expected: str
) -> None:
    assert ChatTemplate(source, []).render(messages, TOOLS) == expected
    assert ChatTemplate("{{ tools is none }}", []).render(messages) == "True"


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        ("{{ tools * 10 ** 9 }}", HELLO),
        ("{{ tools.append(1) }}", HELLO),
        ("{{ tools[0].update({}) }}", HELLO),
        ("{{ tools.__class__.__base__ }}", HELLO),
        ("{{ tools }}", called("{")),
        ("{{ tools }}", called("[]")),
        ("{{ tools }}", called("[" * 99_999)),
        ("{{ tools }}", called(5)),
    ],
)
def test_templates_and_calls_that_go_wrong_refuse_the_request(
    source: str, messages: list[dict[str, object]]
) -> None:
    with pytest.raises(BadRequest) as refused:
        ChatTemplate(source, []).render(messages, TOOLS)
    assert refused.value.param == "messages"


async def test_tools_for_a_model_that_was_not_trained_for_them() -> None:
    with pytest.raises(BadRequest, match="no place for tools"):
        Text(loaded()).call_form(TOOLS)
    assert Text(loaded()).call_form([]) is None


async def test_marks_of_calls_are_seen_though_they_are_special_tokens() -> None:
    tokenizer = Tokenizer.from_str(BYTES.to_str())
    tokenizer.add_special_tokens(["[TOOL_CALLS]", "<|other|>"])
    mark, other = tokenizer.token_to_id("[TOOL_CALLS]"), tokenizer.token_to_id("<|other|>")
    assert mark is not None
    assert other is not None
    template = "{{ tools }}[TOOL_CALLS]"
    ours = Text(loaded(tokenizer=tokenizer.to_str(), chat_template=template, vocabulary=300))
    form = ours.call_form(TOOLS)
    letters = tokenizer.encode("ab").ids
    for shown, expected in ((form, "ab[TOOL_CALLS]ab"), (None, "abab")):
        writer = await ours.writer((), (), shown)
        ids = [*letters, other, mark, *letters]
        assert "".join(map(writer.feed, ids)) + writer.finish() == expected
    assert form is not None
    assert f"<[{mark}]>" in await ours.call_grammar(form, TOOLS, "f")


def loaded(**changes: Any) -> Loaded:
    fields: dict[str, Any] = {
        "hash": bytes(32),
        "architecture": "",
        "parameters": 0,
        "dtype": "",
        "device": "",
        "context": 100,
        "vocabulary": 256,
        "numeric_class": "",
        "slots": 1,
        "tokenizer": BYTES.to_str(),
        "chat_template": "",
        "special_tokens": (),
        "stop_ids": (),
    }
    return Loaded(**fields | changes)


async def test_a_template_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "RENDER_TIMEOUT", 0.3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    endless = Text(loaded(chat_template=loop))
    for _ in range(text.THREADS + 1):  # each gets its thread back
        with pytest.raises(BadRequest, match=r"0\.3 s"):
            await endless.prompt(HELLO)
        with trio.fail_after(10):
            while endless._threads.borrowed_tokens:  # noqa: ASYNC110  a thread tells no event
                await trio.sleep(0.01)


async def test_an_interrupted_thread_is_as_good_as_new() -> None:
    limiter = trio.CapacityLimiter(1)
    for _ in range(20):
        with pytest.raises(trio.TooSlowError):
            await interrupt.run_interruptibly(_spin, timeout=0.01, limiter=limiter)
        done = await interrupt.run_interruptibly(lambda: "done", timeout=10, limiter=limiter)
        assert done == "done"


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize("changes", [{"tokenizer": "{"}, {"chat_template": "{% if %}"}])
def test_text_parts_that_cannot_be_used(changes: dict[str, object]) -> None:
    with pytest.raises(ModelInvalid):
        Text(loaded(**changes))


async def test_prompts_equal_those_of_transformers(model_dir: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    path = model_dir()
    theirs = AutoTokenizer.from_pretrained(path)
    ours = Text(
        loaded(
            tokenizer=(path / "tokenizer.json").read_text(),
            chat_template=(path / "chat_template.jinja").read_text(),
            special_tokens=tuple(theirs.special_tokens_map.items()),
            vocabulary=400,
        )
    )
    chat = [*HELLO, {"role": "assistant", "content": "the fox, 你好"}, *HELLO]
    expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert await ours.prompt(chat) == tuple(expected)
