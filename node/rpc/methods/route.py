"""The routes of `model = "auto"`: list, try out, add, remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from r3mes.actors.semantic.router import Prepared, SemanticRouter
from r3mes.config.editing import with_table
from r3mes.config.schema import NAME
from r3mes.errors import ConfigError, Forbidden, ModelNotFound, NotFound
from r3mes.node.audit import audit
from r3mes.node.auto import AutoGateway, Choice
from r3mes.node.http.fields import Text
from r3mes.node.http.keyed_gateway import KeyedGateway
from r3mes.node.reload import Reload
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import method

Prompt = Annotated[Text, Field(min_length=1, max_length=4000)]
Prompts = Annotated[list[Prompt], Field(max_length=4096)]
RouteName = Annotated[str, Field(pattern=NAME.replace(r"\Z", "$"))]
ModelName = Annotated[Text, Field(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True)
class RouteListed:
    """A route.

    Args:
        model: who answers its prompts.
        examples: how many describe it.
        held_out: how many more it is calibrated with.
    """

    name: str
    model: str
    examples: int
    held_out: int


@dataclass(frozen=True, slots=True)
class Calibrated:
    """From when on the router abstains, and what that comes to.

    Args:
        method: ``embedding`` or ``keywords``.
        score: below it the router abstains, and so it does below ``margin``.
        prompts: from which the thresholds were computed.
        right: of these, as many went to their route, or to none as they should.
        abstained: as many went to the default model.
        wrong: as many went to a wrong route.
    """

    method: str
    score: float
    margin: float
    prompts: int
    right: int
    abstained: int
    wrong: int


@dataclass(frozen=True, slots=True)
class RoutesShown:
    """All routes.

    Args:
        default: the model for prompts of none; None for the first of this node, and for keys that
            may not ask it.
        methods: by which prompts can be compared now, the better one first.
    """

    routes: list[RouteListed]
    default: str | None
    methods: list[Calibrated]


class RouteMethods:
    """The namespace ``route``.

    Args:
        auto: decides.
        router: what it decides by.
        reload: where routes are configured.
    """

    def __init__(self, auto: AutoGateway, router: SemanticRouter, reload: Reload) -> None:
        self._auto, self._router, self._reload = auto, router, reload

    @method("route_list", scope="r")
    async def listed(self, context: Context) -> RoutesShown:
        """The routes of `model = "auto"`, and from when on it abstains.

        A key for some models sees the routes to these alone.
        """
        keyed = KeyedGateway(self._auto, context.key)
        routes = [
            RouteListed(route.name, route.model, len(route.examples), len(route.held_out))
            for route in self._router.plan.routes
            if await keyed.may_ask(route.model)
        ]
        default = self._reload.config.routing.default
        shown = default if default is not None and await keyed.may_ask(default) else None
        ways = (("embedding", self._router.vectors), ("keywords", self._router.words))
        methods = [_calibrated(name, way) for name, way in ways if way is not None]
        return RoutesShown(routes, shown, methods)

    @method("route_test", scope="i", errors=(Forbidden, ModelNotFound))
    async def test(
        self, prompt: Annotated[Text, Field(max_length=100_000)], context: Context
    ) -> Choice:
        """Where a prompt would go with `model = "auto"`; no model is asked to answer it."""
        found = await self._auto.decide(prompt)
        await KeyedGateway(self._auto, context.key).check_chosen(found.model)
        return found

    @method("route_add", scope="a", errors=(ConfigError,))
    async def add(
        self,
        name: RouteName,
        model: ModelName,
        examples: Prompts,
        context: Context,
        held_out: Prompts | None = None,
    ) -> RoutesShown:
        """Write a route into the configuration file, in the place of one of that name, and use it.

        A route that does not hold changes nothing. Comments elsewhere in the file stay.
        """
        values: dict[str, object] = {"name": name, "model": model, "examples": examples}
        await self._change(name, values | ({"held_out": held_out} if held_out else {}), context)
        return await self.listed(context)

    @method("route_remove", scope="a", errors=(ConfigError, NotFound))
    async def remove(self, name: RouteName, context: Context) -> RoutesShown:
        """Take a route out of the configuration file."""
        if name not in [route.name for route in self._router.plan.routes]:
            raise NotFound(f"there is no route {name!r}", param="name")
        await self._change(name, None, context)
        return await self.listed(context)

    async def _change(self, name: str, values: dict[str, object] | None, context: Context) -> None:
        what = "route_removed" if values is None else "route_added"
        await self._reload.edit(
            lambda text: with_table(text, "routes", name, values),
            lambda: audit(what, name=name, by=context.key.name, key=context.key.id),
        )


def _calibrated(method: str, way: Prepared) -> Calibrated:
    found = way.calibration
    return Calibrated(
        method,
        round(found.thresholds.score, 4),
        round(found.thresholds.margin, 4),
        found.prompts,
        found.right,
        found.abstained,
        found.wrong,
    )
