"""Rebuilds a Flax Linen model at the widths of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.agreement import Program
from oto_jax.prune.attention_check import Calls, StandIns, check_rebuilt, stand_in
from oto_jax.prune.configuration import int_leaves, mark, marked_leaves, part, replaced
from oto_jax.prune.linen_layers import (
    Seen,
    attached,
    layer_fields,
    see,
    set_fields,
)
from oto_jax.prune.linen_probe import probed_configuration
from oto_jax.prune.linen_widths import by_module, widths_of, with_widths, without_widths
from oto_jax.prune.plan import SOFTMAX_DEPTH, Override, Plan
from oto_jax.prune.search import Trial, cannot_rebuild, search, width_proposals
from oto_jax.prune.slicing import slice_variables
from oto_jax.zigs.call import Call
from oto_jax.zigs.partition import Path, format_path, leaves_by_path

Field = tuple[Path, Path]


@dataclasses.dataclass(frozen=True)
class Rebuilding:
    """A model to be made narrower, and all that its rebuilding reads.

    Attributes:
      model: the full model, without overridden widths of its own.
      before: the overrides that ``model`` already came with.
      variables: the full variables.
      slim_variables: the variables cut along ``plan``.
      seen: each module of the full model as it was called, by path; where a field's integer came
        unchanged from the model's configuration it is marked.
    """

    model: nn.Module
    before: tuple[Override, ...]
    variables: Any
    slim_variables: Any
    plan: Plan
    call: Call
    seen: Mapping[Path, Seen]


def rebuild(
    model: nn.Module, variables: Any, plan: Plan, call: Call
) -> tuple[nn.Module, Any, Plan]:
    """The narrower model, its variables, and the plan with how it is made.

    Args:
      model: the full model.
      variables: its variables, with zero groups.
      plan: what is cut.
      call: what ``model.apply`` is called with after the variables.

    Raises:
      UnprunableModelError: if a module does not run at its new width, or computes something else.
    """
    if plan.whole:
        return model, variables, plan
    base, before = without_widths(model), widths_of(model)
    work = Rebuilding(
        model=base,
        before=before,
        variables=variables,
        slim_variables=slice_variables(variables, plan),
        plan=plan,
        call=call,
        seen=_observe(base, before, variables, call),
    )
    trial = _attempt(work, ())
    if trial.result is None:
        trial = _probe(work) or trial
    if trial.result is None:
        trial = search(
            lambda chosen: _attempt(work, chosen),
            lambda path: _proposals(work, path),
            lambda path: work.seen[path].kind if path in work.seen else path,
        )
    if trial.result is None:
        raise cannot_rebuild(format_path(trial.broke_at) or type(base).__name__, trial)
    slim, plan = trial.result
    return slim, work.slim_variables, plan


def restore(model: nn.Module, plan: Plan) -> nn.Module:
    """The narrower model that `rebuild` made, from the plan it returned."""
    base = without_widths(model)
    if plan.form == "configuration":
        return replaced(base, {override.field: override.value for override in plan.overrides})
    return with_widths(base, plan.overrides) if plan.form == "widths" else model


def program(model: nn.Module, variables: Any, call: Call) -> Program:
    """``model.apply`` on the call's array arguments."""
    updates = bool(call.kwargs.get("mutable", False))

    def fn(variables: Any, *arrays: Any) -> tuple[Any, Any]:
        args, kwargs = call.filled(arrays)
        out = model.apply(variables, *args, **kwargs)
        return out if updates else (out, None)

    return Program(fn, variables)


def _run(model: nn.Module, variables: Any, call: Call, interceptor: Callable[..., Any]) -> None:
    with nn.intercept_methods(interceptor):
        program(model, variables, call).shapes(call.arrays())


def _observe(
    model: nn.Module, before: tuple[Override, ...], variables: Any, call: Call
) -> dict[Path, Seen]:
    """Every module of the full model as it was called, with marked integers where that runs."""
    try:
        return _observed(mark(model), before, variables, call)
    except Exception:  # A model may refuse marked integers; then only its own widths are known.
        return _observed(model, before, variables, call)


def _observed(
    model: nn.Module, before: tuple[Override, ...], variables: Any, call: Call
) -> dict[Path, Seen]:
    seen: dict[Path, Seen] = {}
    pins = by_module(before)

    def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.scope is None:  # Used outside the model's tree: no variables, no path.
            return next_fun(*args, **kwargs)
        for module, inputs in _with_attached(context.module, (args, kwargs)):
            set_fields(module, pins.get(module.path, ()))
            now = see(module, *inputs)
            if now.channels is not None or module.path not in seen:
                seen[module.path] = now
        return next_fun(*args, **kwargs)

    _run(model, variables, call, interceptor)
    return seen


def _with_attached(module: nn.Module, inputs: Any) -> list[tuple[nn.Module, Any]]:
    return [(module, inputs), *((child, ((), {})) for child in attached(module))]


def _attempt(work: Rebuilding, chosen: tuple[Override, ...]) -> Trial[tuple[nn.Module, Plan]]:
    """Runs the model on the slim variables with ``chosen`` and what its layers need besides."""
    found: dict[Field, Override] = {}
    for override in (*work.before, *chosen):
        found[override.path, override.field] = override
    broke_at: list[Path] = []
    pins = by_module(tuple(found.values()))

    def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.scope is None:  # Used outside the model's tree: no variables, no path.
            return next_fun(*args, **kwargs)
        for module, inputs in _with_attached(context.module, (args, kwargs)):
            set_fields(module, pins.get(module.path, ()))
            for override in _needed(work, module, inputs):
                found[override.path, override.field] = override
                set_fields(module, (override,))
        try:
            return next_fun(*args, **kwargs)
        except Exception:
            broke_at.append(context.module.path)
            raise

    try:
        _run(work.model, work.slim_variables, work.call, interceptor)
    except Exception as error:  # Whatever a user's module raises at a width it did not expect.
        return Trial(broke_at=broke_at[0] if broke_at else (), error=error)
    try:
        return Trial(result=_build(work, tuple(found.values())))
    except Exception as error:
        return Trial(error=error, ran=True)


def _probe(work: Rebuilding) -> Trial[tuple[nn.Module, Plan]] | None:
    """The model in the configuration that a probe proposes, if that is the same model."""
    overrides = None if work.before else probed_configuration(work.model, work.plan, work.call)
    if not overrides:
        return None
    try:
        return Trial(result=_checked(work, "configuration", overrides))
    except Exception as error:  # The configuration governs more than the sizes of spaces.
        return Trial(error=error, ran=True)


def _needed(work: Rebuilding, module: nn.Module, inputs: Any) -> list[Override]:
    """The width fields of a layer that differ from what the slim variables ask for."""
    fields = layer_fields(module, see(module, *inputs), work.seen.get(module.path))
    return [
        Override(module.path, (name,), value)
        for name, value in fields.items()
        if not _has_width(module, name, value)
    ]


def _has_width(module: nn.Module, name: str, value: Any) -> bool:
    if name == SOFTMAX_DEPTH:
        return hasattr(module.attention_fn, SOFTMAX_DEPTH)
    return bool(getattr(module, name) == value)


def _proposals(work: Rebuilding, path: Path) -> list[Override]:
    seen = work.seen.get(path)
    return width_proposals(path, dict(int_leaves(seen.fields)), work.plan) if seen else []


def _build(work: Rebuilding, overrides: tuple[Override, ...]) -> tuple[nn.Module, Plan]:
    """The model in its own configuration if that can say it, else with overridden widths."""
    configuration = None if work.before else _configuration(work.seen, overrides)
    if configuration:
        try:
            return _checked(work, "configuration", configuration)
        except Exception:  # The configuration governs more, or less, than what has to change.
            pass
    return _checked(work, "widths", overrides)


def _configuration(
    seen: Mapping[Path, Seen], overrides: tuple[Override, ...]
) -> tuple[Override, ...] | None:
    """New values for the configuration's integers; None where two layers ask for different ones."""
    wanted: dict[Path, int] = {}
    for override in overrides:
        if override.field == (SOFTMAX_DEPTH,) or override.path not in seen:
            return None
        old = part(seen[override.path].fields, override.field)
        for leaf, size in marked_leaves(old, override.value).items():
            if wanted.setdefault(leaf, size) != size:
                return None
    return tuple(Override((), leaf, size) for leaf, size in wanted.items())


def _checked(work: Rebuilding, form: Any, overrides: tuple[Override, ...]) -> tuple[Any, Plan]:
    plan = dataclasses.replace(work.plan, form=form, overrides=overrides)
    slim = restore(work.model, plan)
    full = program(with_widths(work.model, work.before), work.variables, work.call)
    programs = (full, program(slim, work.slim_variables, work.call))
    around = (_with_stand_ins(programs[0]), _with_stand_ins(programs[1]))
    check_rebuilt(programs, around, plan, work.call.arrays(), equal_depths=False)
    _check_init(work, slim)
    return slim, plan


def _with_stand_ins(whole: Program) -> StandIns:
    """Puts stand-ins into modules just before their methods read ``attention_fn``."""

    def make(depths: Mapping[Path, int], calls: Calls) -> Program:
        def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module: Any = context.module
            depth = depths.get(module.path) if module.scope is not None else None
            if depth is not None:
                seen = calls.setdefault(module.path, [])
                attend = stand_in(depth, seen, module.attention_fn)
                object.__setattr__(module, "attention_fn", attend)
            return next_fun(*args, **kwargs)

        def fn(variables: Any, *arrays: Any) -> tuple[Any, Any]:
            with nn.intercept_methods(interceptor):
                return whole.fn(variables, *arrays)

        return dataclasses.replace(whole, fn=fn)

    return make


def _check_init(work: Rebuilding, slim: nn.Module) -> None:
    """Where ``init`` takes the same call, the slim model has to initialise at the slim shapes."""
    full = initial_shapes(with_widths(work.model, work.before), work.call)
    known = work.plan.by_path
    if full is None or any(
        path not in known or known[path].shape != leaf.shape for path, leaf in full.items()
    ):
        return
    for path, leaf in _initial(slim, work.call).items():
        if leaf.shape != known[path].slim_shape:
            raise UnprunableModelError(
                f"init makes {format_path(path)!r} of shape {leaf.shape}, not"
                f" {known[path].slim_shape}"
            )


def initial_shapes(model: nn.Module, call: Call) -> dict[Path, Any] | None:
    """What ``model.init`` makes on the call, abstractly; None where it does not take that call."""
    try:
        return _initial(model, call)
    except Exception:  # Such as a call of a method that needs variables of another one.
        return None


def _initial(model: nn.Module, call: Call) -> dict[Path, Any]:
    def init(*arrays: Any) -> Any:
        args, kwargs = call.filled(arrays)
        rngs = {"params": jax.random.key(0), **(kwargs.pop("rngs", None) or {})}
        for name in ("mutable", "capture_intermediates"):
            kwargs.pop(name, None)
        return model.init(rngs, *args, **kwargs)

    return leaves_by_path(jax.eval_shape(init, *call.arrays()))
