"""A Flax Linen module whose layers' widths are overridden by path while it runs."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from oto_jax.prune.configuration import replaced
from oto_jax.prune.linen_layers import attached, set_fields
from oto_jax.prune.plan import SOFTMAX_DEPTH, Override
from oto_jax.zigs.partition import Path

FIELD = "slim_widths"

Pins = Mapping[Path, tuple[Override, ...]]


def with_widths(model: nn.Module, overrides: tuple[Override, ...]) -> Any:
    """``model`` at other widths: an instance of a subclass that remembers ``overrides``.

    The subclass runs every method of the model's class, and any function given as ``method=``,
    under an interceptor (``flax.linen.intercept_methods``) that sets the widths of each submodule
    just before it runs. Names, scopes, methods and the structure of the variables stay those of
    ``model``.
    """
    own = {
        override.field: override.value
        for override in overrides
        if not override.path and override.field != (SOFTMAX_DEPTH,)
    }
    base, fields = base_class(type(model)), _fields(model)
    fields |= {name: replaced(fields[name], below) for name, below in _by_name(own).items()}
    return widths_class(base)(**fields, **{FIELD: overrides})


def widths_of(model: nn.Module) -> tuple[Override, ...]:
    """The overrides that `with_widths` gave to ``model``; none for any other module."""
    return getattr(model, FIELD, ())


def without_widths(model: nn.Module) -> Any:
    """The module that `with_widths` was given, up to its own fields."""
    return base_class(type(model))(**_fields(model)) if widths_of(model) else model


def base_class(cls: type[nn.Module]) -> Any:
    """The user's class of a class that `widths_class` made, or ``cls`` itself."""
    return cls.__dict__.get("slim_base", cls)


@functools.cache
def widths_class(base: Any) -> Any:
    """The subclass of ``base`` with a field of overrides; it keeps the name, hence scopes."""
    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__annotations__": {FIELD: tuple},
        "__reduce__": nn.nowrap(_reduce),
        FIELD: (),
        "slim_base": base,
        "apply": nn.nowrap(_apply),
        "init_with_output": nn.nowrap(_init_with_output),
    }
    for name in _methods(base):
        namespace[name] = _under_widths(getattr(base, name))
    return type(base)(base.__name__, (base,), namespace)


def pinning(pins: Pins, root: Path = ()) -> Callable[..., Any]:
    """An interceptor that gives the module at each path its pinned widths.

    Submodules in fields or made by ``setup`` are reached with their parent, since some of their
    methods (a cell's ``initialize_carry``) are not intercepted.
    """

    def interceptor(
        next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.module.scope is None:  # Used outside the model's tree: no variables, no path.
            return next_fun(*args, **kwargs)
        for module in (context.module, *attached(context.module)):
            set_fields(module, pins.get(module.path[len(root) :], ()))
        return next_fun(*args, **kwargs)

    return interceptor


def by_module(overrides: tuple[Override, ...]) -> Pins:
    """The overrides by the path of their module."""
    pins: dict[Path, tuple[Override, ...]] = {}
    for override in overrides:
        pins[override.path] = (*pins.get(override.path, ()), override)
    return pins


def _interception(module: nn.Module) -> Any:
    root = module.path if module.scope is not None else ()
    return nn.intercept_methods(pinning(by_module(widths_of(module)), root))


def _under_widths(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method, updated=())  # Flax's own marks stay on the method inside.
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _interception(self):
            return method(self, *args, **kwargs)

    return nn.nowrap(run)


def _methods(base: type[nn.Module]) -> list[str]:
    """Names of the methods that the user's classes define."""
    return [
        name
        for name in dir(base)
        if (name == "__call__" or not name.startswith("__"))
        and inspect.isfunction(inspect.getattr_static(base, name))
        and getattr(base, name) is not getattr(nn.Module, name, None)
    ]


def _method(method: Any) -> Any:
    """``method`` of ``apply`` and ``init``, made to run under the widths whatever it is."""
    if method is None or isinstance(method, str):
        return method
    return _under_widths(getattr(method, "__func__", method))


def _apply(self: Any, variables: Any, *args: Any, method: Any = None, **kwargs: Any) -> Any:
    return super(type(self), self).apply(variables, *args, method=_method(method), **kwargs)


def _init_with_output(self: Any, rngs: Any, *args: Any, method: Any = None, **kwargs: Any) -> Any:
    return super(type(self), self).init_with_output(rngs, *args, method=_method(method), **kwargs)


def _reduce(self: nn.Module) -> tuple[Any, ...]:
    return _restore, (base_class(type(self)), _fields(self), widths_of(self))


def _restore(base: Any, fields: dict[str, Any], overrides: tuple[Override, ...]) -> Any:
    return widths_class(base)(**fields, **{FIELD: overrides})


def _fields(model: nn.Module) -> dict[str, Any]:
    return {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.init and field.name not in ("parent", FIELD)
    }


def _by_name(leaves: Mapping[Path, Any]) -> dict[str, dict[Path, Any]]:
    by_name: dict[str, dict[Path, Any]] = {}
    for path, value in leaves.items():
        by_name.setdefault(path[0], {})[path[1:]] = value
    return by_name
