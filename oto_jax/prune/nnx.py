"""Rebuilds a Flax NNX model at the widths of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from oto_jax.errors import CheckpointError, ZIGMismatchError
from oto_jax.prune.agreement import Program
from oto_jax.prune.attention_check import Calls, StandIns, check_rebuilt, stand_in
from oto_jax.prune.configuration import int_leaves, replaced
from oto_jax.prune.nnx_layers import layer_attributes
from oto_jax.prune.plan import SOFTMAX_DEPTH, Override, Plan
from oto_jax.prune.search import Trial, cannot_rebuild, search, width_proposals
from oto_jax.prune.slicing import slice_variables
from oto_jax.prune.softmax_depth import scaled_attention
from oto_jax.zigs.call import Call
from oto_jax.zigs.partition import Path, format_path, key_path

Modules = dict[Path, nnx.Module]


@dataclasses.dataclass(frozen=True)
class Rebuilding:
    """A model to be made narrower, its modules by path, and what is cut."""

    model: nnx.Module
    modules: Modules
    plan: Plan
    call: Call


def state_of(model: nnx.Module) -> Any:
    """All variables of an NNX model, as `find_zigs` sees them."""
    return nnx.split(model)[1]


def filled(model: nnx.Module, state: Any = None) -> nnx.Module:
    """A copy of ``model``, with the variables of ``state`` where one is given.

    Raises:
      ZIGMismatchError: if ``state`` does not fit the model.
    """
    copy = nnx.clone(model)
    if state is not None:
        try:
            nnx.update(copy, state)
        except (ValueError, KeyError, AttributeError) as error:
            raise ZIGMismatchError(
                f"the variables do not fit the model ({error}); pass nnx.state(model), or"
                " prune(model, zigs)"
            ) from error
    return copy


def rebuild(model: nnx.Module, plan: Plan, call: Call) -> tuple[nnx.Module, Plan]:
    """A narrower copy of the model, and the plan with how it is made.

    Args:
      model: the full model, its variables with zero groups.
      plan: what is cut.
      call: what the model is called with.

    Raises:
      UnprunableModelError: if a module does not run at its new width, or computes something else.
    """
    if plan.whole:
        return nnx.clone(model), plan
    work = Rebuilding(model, _modules(model), plan, call)
    trial = search(
        lambda chosen: _attempt(work, chosen),
        lambda path: _proposals(work, path),
        lambda path: type(work.modules[path]).__qualname__ if path in work.modules else path,
    )
    if trial.result is None:
        raise cannot_rebuild(format_path(trial.broke_at) or type(model).__name__, trial)
    return trial.result


def restore(model: nnx.Module, plan: Plan, arrays: Mapping[Path, Any]) -> nnx.Module:
    """The narrower model that `rebuild` made, from its plan and its arrays by path."""
    slim = nnx.clone(model)
    _set_attributes(slim, plan.overrides)

    def stored(path: tuple[Any, ...], leaf: Any) -> Any:
        name = key_path(path)
        if name not in arrays:
            raise CheckpointError(
                f"the checkpoint has no {format_path(name)!r}, which the model has; load it into"
                " the model that was pruned"
            )
        return arrays[name]

    nnx.update(slim, jax.tree_util.tree_map_with_path(stored, state_of(slim)))
    return slim


def _modules(model: nnx.Module) -> Modules:
    return {tuple(str(key) for key in path): module for path, module in nnx.iter_modules(model)}


def _attempt(work: Rebuilding, chosen: tuple[Override, ...]) -> Trial[tuple[nnx.Module, Plan]]:
    """A sliced copy with ``chosen`` attributes and those its layers need, run and checked."""
    slim = nnx.clone(work.model)
    nnx.update(slim, slice_variables(state_of(slim), work.plan))
    _set_attributes(slim, chosen)
    needed = tuple(
        override
        for path, module in _modules(slim).items()
        for override in _needed(path, module, work.modules[path])
    )
    _set_attributes(slim, needed)
    plan = dataclasses.replace(work.plan, form="attributes", overrides=(*chosen, *needed))
    live: Modules = {}
    try:
        program(slim, work.call, live).shapes(work.call.arrays())
    except Exception as error:  # Whatever a user's module raises at a width it did not expect.
        return Trial(broke_at=_raised_in(error, live), error=error)
    try:
        programs = (program(work.model, work.call), program(slim, work.call))
        around = (_with_stand_ins(work.model, work.call), _with_stand_ins(slim, work.call))
        check_rebuilt(programs, around, plan, work.call.arrays(), equal_depths=True)
    except Exception as error:
        return Trial(error=error, ran=True)
    return Trial(result=(slim, plan))


def _with_stand_ins(model: nnx.Module, call: Call) -> StandIns:
    """Puts stand-ins into a copy of the model."""

    def make(depths: Mapping[Path, int], calls: Calls) -> Program:
        copy = nnx.clone(model)
        modules = _modules(copy)
        for path, depth in depths.items():
            module: Any = modules[path]
            seen = calls.setdefault(path, [])
            module.attention_fn = stand_in(depth, seen, module.attention_fn)
        return program(copy, call)

    return make


def program(model: nnx.Module, call: Call, live: Modules | None = None) -> Program:
    """The model as a pure function of its state; ``live`` receives the modules of the last run."""
    graph, state = nnx.split(model)
    streams = nnx.to_flat_state(nnx.state(model, nnx.RngState))

    def fn(state: Any, *arrays: Any) -> tuple[Any, Any]:
        module = nnx.merge(graph, state)
        if live is not None:
            live.update(_modules(module))
        args, kwargs = call.filled(arrays)
        out = module(*args, **kwargs)
        return out, state_of(module)

    return Program(fn, state, frozenset(key_path(path) for path, _ in streams))


def evaluating(model: nnx.Module) -> nnx.Module:
    """A copy in evaluation mode: a mode that was set in the object is not part of the model."""
    copy = nnx.clone(model)
    copy.eval()
    return copy


def _raised_in(error: Exception, live: Modules) -> Path:
    """The path of the innermost module whose method the error passed through."""
    paths = {id(module): path for path, module in live.items()}
    found: Path = ()
    traceback = error.__traceback__
    while traceback is not None:
        found = paths.get(id(traceback.tb_frame.f_locals.get("self")), found)
        traceback = traceback.tb_next
    return found


def _needed(path: Path, module: nnx.Module, full: nnx.Module) -> list[Override]:
    return [
        Override(path, (name,), value)
        for name, value in layer_attributes(module, full).items()
        if name == SOFTMAX_DEPTH or getattr(module, name) != value
    ]


def _proposals(work: Rebuilding, path: Path) -> list[Override]:
    module = work.modules.get(path)
    if module is None:
        return []
    leaves = {
        (name, *field): size
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, nnx.Variable | nnx.Pytree)
        for field, size in int_leaves(value)
    }
    return width_proposals(path, leaves, work.plan)


def _set_attributes(model: nnx.Module, overrides: tuple[Override, ...]) -> None:
    modules = _modules(model)
    for override in overrides:
        module: Any = modules[override.path]
        name, below = override.field[0], override.field[1:]
        if name == SOFTMAX_DEPTH:
            module.attention_fn = scaled_attention(
                module.attention_fn, override.value, equal_depths=True
            )
        else:
            setattr(module, name, replaced(getattr(module, name), {below: override.value}))


def pure(model: nnx.Module, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model as ``fn(variables, *inputs)``; the variables keep parameters under ``params``."""
    split: tuple[Any, ...] = nnx.split(model, nnx.Param, ...)
    graph, params, rest = split

    def fn(variables: Any, *inputs: Any) -> Any:
        return nnx.merge(graph, variables["params"], variables["rest"])(*inputs, **kwargs)

    return fn, {"params": params, "rest": rest}
