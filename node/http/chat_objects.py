"""OpenAI's objects for an answer: whole, in parts, and the figures at its end.

Source: OpenAI API reference, "chat.completion" and "chat.completion.chunk" objects.
"""

from __future__ import annotations

from collections.abc import Mapping

from r3mes.node.http.ports import Answer


def completion(answer: Answer, text: str, *, created: int) -> dict[str, object]:
    """The ``chat.completion`` object of an answer that has ended; ``created`` in unix seconds."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": f"chatcmpl-{answer.receipt_id[:32]}",
        "object": "chat.completion",
        "created": created,
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": usage_of(answer),
        "r3mes": figures_of(answer),
    }


def chunk(
    answer: Answer, delta: Mapping[str, str], finish: str | None = None, *, created: int
) -> dict[str, object]:
    """A ``chat.completion.chunk`` object: one part of an answer, ``created`` in unix seconds."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": f"chatcmpl-{answer.receipt_id[:32]}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": answer.model,
        "choices": [choice],
    }


def usage_of(answer: Answer) -> dict[str, int]:
    """OpenAI's count of tokens."""
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def figures_of(answer: Answer) -> dict[str, object]:
    """What this network knows of an answer besides."""
    return {
        "cost_uremes": answer.cost_uremes,
        "receipt_id": answer.receipt_id,
        "peer_id": answer.peer,
        "queue_ms": round(answer.queue_ms, 3),
        "route": answer.route,
    }
