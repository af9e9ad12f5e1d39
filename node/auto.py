"""``model = "auto"``: the semantic router chooses who is asked, and the answer tells how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from r3mes.actors.gateway import Answer, ChatRequest, Gateway, ModelEntry
from r3mes.actors.semantic.decision import Decision
from r3mes.actors.semantic.router import Plan, Route, SemanticRouter
from r3mes.config.schema import AUTO, Config
from r3mes.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class Choice:
    """Who is asked, and why.

    Args:
        model: the name of a model, or of an adapter as ``model:adapter``.
        route: the one that is most like the prompt; None if nothing was compared.
        score: how alike they are, on the scale of the method.
        margin: how much more than the next best, another route or the prompts of none.
        abstained: no route was like it enough, so the default model is asked.
        method: ``embedding``, ``keywords`` or ``none``.
        why: what was not as wished, such as a model for embeddings that does not answer.
    """

    model: str
    route: str | None
    score: float
    margin: float
    abstained: bool
    method: str
    why: str | None


class AutoGateway:
    """The node's gateway, with the router before it.

    Args:
        gateway: answers.
        router: decides.
        config: in force now; has the default.
    """

    def __init__(
        self, gateway: Gateway, router: SemanticRouter, config: Callable[[], Config]
    ) -> None:
        self._gateway, self._router, self._config = gateway, router, config

    def complete(self, request: ChatRequest) -> AbstractAsyncContextManager[Answer]:
        """As the gateway."""
        return self._gateway.complete(request)

    async def models(self) -> list[ModelEntry]:
        """Those of the gateway, and ``auto`` behind them if there are routes."""
        found = await self._gateway.models()
        if not found or not self._router.plan.routes:
            return found
        context = min(entry.context for entry in found)
        return [*found, ModelEntry(AUTO, "", context, "router", 0, 0)]

    async def choose(self, request: ChatRequest) -> ChatRequest:
        """``request`` for the model that the router chooses, which is what will be signed.

        Raises:
            ModelNotFound: there is no model at all.
        """
        choice = await self.decide(prompt_of(request.messages))
        told = {
            "route": choice.route,
            "model": choice.model,
            "score": round(choice.score, 4),
            "margin": round(choice.margin, 4),
            "abstained": choice.abstained,
            "method": choice.method,
            "why": choice.why,
        }
        return replace(request, model=choice.model, auto=told)

    async def decide(self, prompt: str) -> Choice:
        """Who is asked for ``prompt``: the route's model if somebody serves it, else the default.

        Raises:
            ModelNotFound: there is no model at all.
        """
        decision = await self._router.decide(prompt)
        served = [entry.id for entry in await self._gateway.models()]
        wanted = {route.name: route.model for route in self._router.plan.routes}
        if decision.abstained or decision.route not in wanted:
            return _choice(self._default(served), decision)
        model = wanted[decision.route]
        if model in served:
            return _choice(model, decision)
        why = f"nobody serves the model of the route {decision.route}"  # whose name not all may see
        unserved = replace(decision, abstained=True, why=why)
        return _choice(self._default(served), unserved)

    def _default(self, served: Sequence[str]) -> str:
        """The configured one, whether it is served or not; else the first, which is our own."""
        default = self._config().routing.default
        if default is not None:
            return default
        if not served:
            raise ModelNotFound("no model is served that 'auto' could stand for", param="model")
        return served[0]


def _choice(model: str, decision: Decision) -> Choice:
    return Choice(
        model,
        decision.route,
        decision.score,
        decision.margin,
        decision.abstained,
        decision.method,
        decision.why,
    )


def prompt_of(messages: Sequence[Mapping[str, object]]) -> str:
    """What the router looks at: the user's last message."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else ""
    return ""


def plan_of(config: Config) -> Plan:
    """The routes of the configuration, as the router takes them."""
    routes = tuple(
        Route(route.name, route.model, tuple(filter(str.strip, route.examples)), route.held_out)
        for route in config.routes
    )
    routing = config.routing
    return Plan(routes, routing.outside, routing.outside_held_out, routing.most_wrong)
