"""OpenAI's objects for an answer: whole, in parts, and the figures at its end.

Source: OpenAI API reference, "chat.completion" and "chat.completion.chunk" objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r3mes.actors.requests.logprobs import Logprob
from r3mes.node.http.chat_choices import Choice, Delta
from r3mes.node.http.ports import Answer
from r3mes.node.http.tool_calls import Call

AUTO_HEADERS = ("route", "model", "score", "margin", "abstained", "method")
"""What of the router's decision is told in headers; its reason may have letters unfit for one."""


def completion(choices: Sequence[Choice], *, created: int) -> dict[str, object]:
    """The ``chat.completion`` object of answers that have ended; ``created`` in unix seconds."""
    answers = [choice.answer for choice in choices]
    return {
        "id": f"chatcmpl-{answers[0].receipt_id[:32]}",
        "object": "chat.completion",
        "created": created,
        "model": answers[0].model,
        "choices": [
            {
                "index": choice.index,
                "message": _message(choice),
                "logprobs": _logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
        "usage": usage_of(answers),
        "r3mes": figures_of(answers),
    }


def _message(choice: Choice) -> dict[str, object]:
    calls = [_call(call) for call in choice.calls]
    content = choice.text or (None if calls else "")
    message = {"role": "assistant", "content": content, "refusal": None}
    return message | ({"tool_calls": calls} if calls else {})


def told_of(delta: Delta) -> dict[str, object]:
    """What a chunk tells under ``delta``."""
    calls = [{"index": index} | _call(call) for index, call in delta.calls]
    text = {"content": delta.text} if delta.text or not (calls or delta.logprobs) else {}
    return text | ({"tool_calls": calls} if calls else {})


def _call(call: Call) -> dict[str, object]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def chunk(
    choice: Choice,
    delta: Mapping[str, object],
    finish: str | None = None,
    logprobs: Sequence[Sequence[Logprob]] = (),
    *,
    created: int,
) -> dict[str, object]:
    """A ``chat.completion.chunk`` object: one part of a choice, ``created`` in unix seconds."""
    part = {
        "index": choice.index,
        "delta": delta,
        "logprobs": _logprobs(logprobs),
        "finish_reason": finish,
    }
    return {
        "id": f"chatcmpl-{choice.answer.receipt_id[:32]}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": choice.answer.model,
        "choices": [part],
    }


def usage_of(answers: Sequence[Answer]) -> dict[str, int]:
    """OpenAI's count of tokens; each answer read the prompt, and all are paid."""
    prompt = sum(answer.prompt_tokens for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def figures_of(answers: Sequence[Answer]) -> dict[str, object]:
    """What this network knows of the answers besides: of one, or of all with each by itself."""
    first, *more = answers
    figures: dict[str, object] = {
        "cost_uremes": sum(answer.cost_uremes for answer in answers),
        "receipt_id": first.receipt_id,
        "peer_id": first.peer,
        "queue_ms": round(first.queue_ms, 3),
        "route": first.route,
    }
    if first.auto is not None:
        figures["auto"] = dict(first.auto)
    return figures | ({"choices": [figures_of([answer]) for answer in answers]} if more else {})


def auto_headers(answer: Answer) -> dict[str, str]:
    """How the model was chosen, if the router chose it."""
    known = {name: value for name, value in (answer.auto or {}).items() if name in AUTO_HEADERS}
    return {f"x-r3mes-auto-{name}": str(value).lower() for name, value in known.items()}


def _logprobs(tokens: Sequence[Sequence[Logprob]]) -> dict[str, object] | None:
    if not tokens:
        return None
    content = [
        _shown(own) | {"top_logprobs": [_shown(other) for other in others]}
        for own, *others in tokens
    ]
    return {"content": content, "refusal": None}


def _shown(one: Logprob) -> dict[str, object]:
    text = one.token.decode(errors="replace")
    return {"token": text, "logprob": one.value, "bytes": list(one.token)}
