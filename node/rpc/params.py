"""Checks the parameters of a call against the types of the function that answers it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from pjrpc.server.validators import BaseValidator, BaseValidatorFactory
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from r3mes.errors import BadRequest
from r3mes.node.http.faults import bad_request
from r3mes.node.rpc.context import Context


class Params(BaseValidator):
    """The parameters of one function, as a pydantic model.

    Types are strict: ``"5"`` is no integer.  Names that do not exist are refused.  A function whose
    only parameter is a pydantic model takes the whole object of parameters as that model, which has
    rules of its own.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        signature = inspect.signature(call, eval_str=True)
        self.result = signature.return_annotation
        self.context: str | None = None
        self._whole: str | None = None
        kept = {}
        for name, parameter in signature.parameters.items():
            if parameter.annotation is Context:
                self.context = name
            elif name != "self":
                kept[name] = parameter
        self.model = self._model(kept, call.__name__)
        self.names = tuple(self.model.model_fields)

    def _model(self, kept: dict[str, inspect.Parameter], name: str) -> type[BaseModel]:
        if len(kept) == 1:
            (only,) = kept.values()
            if isinstance(only.annotation, type) and issubclass(only.annotation, BaseModel):
                self._whole = only.name
                return only.annotation
        fields: dict[str, Any] = {
            name: (one.annotation, ... if one.default is inspect.Parameter.empty else one.default)
            for name, one in kept.items()
        }
        strict = ConfigDict(strict=True, extra="forbid", protected_namespaces=())
        return create_model(name, __config__=strict, **fields)

    def validate_params(self, params: Any) -> dict[str, Any]:
        """The arguments by name.

        Raises:
            BadRequest: says which parameter is wrong, and how.
        """
        if isinstance(params, list):
            if len(params) > len(self.names):
                raise BadRequest(f"{len(params)} parameters, this method takes {len(self.names)}")
            params = dict(zip(self.names, params, strict=False))
        try:
            values = self.model.model_validate(params or {})
        except ValidationError as error:
            raise bad_request(error.errors(), whole="params") from None
        if self._whole:
            return {self._whole: values}
        return {name: getattr(values, name) for name in self.names}


class ParamsFactory(BaseValidatorFactory):
    """Makes pjrpc use `Params`."""

    def build(self, method: Callable[..., Awaitable[Any]]) -> Params:
        return Params(method)
