"""What this node tells its engine of models and adapters, and what it asks for them."""

from __future__ import annotations

import pytest

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.requests.job import InferJob
from r3mes.config.schema import Adapter, Config, Model
from r3mes.errors import BadRequest
from r3mes.node.models import OwnModels, model_settings

MODELS = (Model(id="/models/one", price_prompt=5, price_completion=6), Model(id="two"))
ADAPTERS = (
    Adapter(model="one", name="a", id="/a", hash="ab" * 32),
    Adapter(model="one", name="b", id="x/b", revision="c0ffee", price_completion=0),
    Adapter(model="two", name="a", id="/c"),
)


def test_an_adapter_costs_what_its_model_does_unless_it_says_otherwise() -> None:
    own = OwnModels(MODELS, ADAPTERS, InferenceClient([]))
    assert own.prices_of("one") == own.prices_of("one:a") == (5, 6)
    assert own.prices_of("one:b") == (5, 0)
    assert own.prices_of("one:loaded-later") == (5, 6)
    own.price((Model(id="/models/one", price_prompt=9, price_completion=9), MODELS[1]))
    assert own.prices_of("one:b") == (9, 0)


def test_each_model_gets_its_own_adapters() -> None:
    config = Config(models=MODELS, adapters=ADAPTERS)
    a, b = model_settings(MODELS[0], config).adapters
    assert (a.name, a.source, a.revision, a.hash) == ("a", "/a", "main", b"\xab" * 32)
    assert (b.source, b.revision, b.hash) == ("x/b", "c0ffee", None)
    assert [one.source for one in model_settings(MODELS[1], config).adapters] == ["/c"]


@pytest.mark.parametrize(("tools", "call"), [(b"[]", "*"), (b"[]", "f")])
def test_a_call_of_no_tool_is_refused(tools: bytes, call: str) -> None:
    own = OwnModels(MODELS, ADAPTERS, InferenceClient([]))
    job = InferJob(messages=b"[]", tools=tools, call=call)
    with pytest.raises(BadRequest) as refused:
        own.generate("one", job, max_tokens=1, deadline_s=1)
    assert refused.value.param == "tool_choice"
