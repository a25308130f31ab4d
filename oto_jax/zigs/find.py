"""`find_zigs`: from a Flax module or a function to its zero-invariant groups."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from oto_jax.errors import HyperparameterError, OTOError, UnprunableModelError, UntraceableError
from oto_jax.zigs import dims as d
from oto_jax.zigs.call import Call, abstract_array
from oto_jax.zigs.groups import Attention, Options, Variable, find_groups
from oto_jax.zigs.partition import Path, ZIGs, format_path, key_path
from oto_jax.zigs.program import Body, Value
from oto_jax.zigs.walk import open_jaxpr

Unprunable = Iterable[str] | Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class Target:
    """A model as a pure function of its variables.

    ``fn(variables, *args, **kwargs)`` returns the outputs and the updated variables (or None).
    ``prefix`` leads from the variables to the parameters; ``is_parameter`` tells them by path.
    ``rebuilds`` says that the model is a module, which `oto_jax.prune` makes anew at other widths.
    """

    fn: Callable[..., tuple[Any, Any]]
    variables: Any
    prefix: Path
    parameters: Any
    is_parameter: Callable[[Path], bool]
    rebuilds: bool


def find_zigs(
    model: Any,
    *args: Any,
    unprunable: Unprunable = (),
    attention: Attention = "heads",
    narrow_only: bool = False,
    **kwargs: Any,
) -> ZIGs:
    """Find the zero-invariant groups of a model (paper, section 3.1), for any JAX program.

    The model is traced on abstract values, so ``jax.ShapeDtypeStruct`` s will do for variables and
    inputs: no weights and no device memory are needed. Every axis of every parameter ends either
    in a space of the result or in its ``blocked``, with the reason.

    Args:
      model: a ``flax.linen.Module``, called as ``find_zigs(model, variables, *inputs,
        **apply_kwargs)``; a ``flax.nnx.Module``, called as ``find_zigs(model, *inputs,
        **call_kwargs)``; or any function, called as ``find_zigs(fn, params, *inputs, **kwargs)``,
        whose first argument is a pytree of parameters. If that pytree is a mapping with a
        ``"params"`` entry, as Flax variables are, only that entry counts as trained.
      *args: the model's variables (Linen, functions) and inputs: arrays or
        ``jax.ShapeDtypeStruct`` s. Other values, such as ``True``, are passed on as they are.
      unprunable: parameters whose own units stay: globs over slash-separated paths such as
        ``"head/*"`` (from the parameters' root), or a predicate of that path.
      attention: heads and head dimensions share entries, so one has to be chosen:
        ``"heads"`` or ``"head_dim"``.
      narrow_only: also return groups that are exact only through `oto_jax.narrow`, because a mean
        or a numbering runs along them: the residual width of a transformer is one.
      **kwargs: passed to the model (``train=False``, ``mutable=...``, ``rngs=...``).

    Returns:
      The `ZIGs`, static and hashable.

    Raises:
      UntraceableError: if the model cannot be traced with these arguments.
      UnprunableModelError: if there are no parameters at all.
      HyperparameterError: if ``unprunable`` matches nothing or ``attention`` is neither choice.

    Example:
      >>> import jax, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Conv(16, (3, 3)), nn.relu, nn.Conv(4, (1, 1))])
      >>> x = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> zigs = oto_jax.find_zigs(model, variables, x)
      >>> [(space.name, space.size) for space in zigs.spaces]
      [('layers_0', 16)]
    """
    if attention not in ("heads", "head_dim"):
        raise HyperparameterError(f"attention must be 'heads' or 'head_dim', not {attention!r}")
    target, inputs = _target(model, args, kwargs)
    call = Call.of(*inputs, **kwargs)
    with _collector_paused():
        return _find(target, call, unprunable, attention, narrow_only)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Discovery makes many small objects and hardly any garbage.

    Python's collector would scan all of them again and again while they are made, at a cost that
    grows faster than the program.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _find(
    target: Target, call: Call, unprunable: Unprunable, attention: Attention, narrow_only: bool
) -> ZIGs:
    body, variables = open_target(target, call)
    if not any(variable.is_parameter for variable in variables):
        raise UnprunableModelError("the model has no parameters")
    options = Options(
        attention=attention,
        unprunable=_matcher(unprunable, variables, target.prefix),
        narrow_only=narrow_only,
        rebuilds=target.rebuilds,
    )
    treedef = jax.tree_util.tree_structure(target.parameters)
    zigs = find_groups(body, variables, target.prefix, treedef, options)
    return dataclasses.replace(zigs, call=call)


def _target(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Target, Any]:
    if isinstance(model, nnx.Module):
        return _nnx_target(model), args
    if not args:
        raise UntraceableError("find_zigs needs the variables: find_zigs(model, variables, x)")
    if isinstance(model, nn.Module):
        return _linen_target(model, args[0], bool(kwargs.get("mutable", False))), args[1:]
    if not callable(model):
        raise UntraceableError(f"expected a Flax module or a function, not {type(model).__name__}")
    if isinstance(model, type):
        raise UntraceableError(f"expected an instance of {model.__name__}, not the class itself")
    return _function_target(model, args[0]), args[1:]


def _function_target(fn: Callable[..., Any], variables: Any) -> Target:
    has_collections = isinstance(variables, Mapping) and isinstance(
        variables.get("params"), Mapping
    )
    prefix: Path = ("params",) if has_collections else ()
    return Target(
        fn=lambda variables, *args, **kwargs: (fn(variables, *args, **kwargs), None),
        variables=variables,
        prefix=prefix,
        parameters=variables["params"] if has_collections else variables,
        is_parameter=lambda path: path[: len(prefix)] == prefix,
        rebuilds=False,
    )


def _linen_target(model: nn.Module, variables: Any, updates: bool) -> Target:
    if not isinstance(variables, Mapping) or "params" not in variables:
        found = f"the collections {sorted(variables)}" if isinstance(variables, Mapping) else None
        raise UntraceableError(
            "a Linen model's variables are a mapping with a 'params' collection, as model.init"
            f" returns; got {found or type(variables).__name__}"
        )

    def fn(variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        out = model.apply(variables, *args, **kwargs)
        return out if updates else (out, None)

    return dataclasses.replace(_function_target(fn, variables), fn=fn, rebuilds=True)


def _nnx_target(model: nnx.Module) -> Target:
    graph, state = nnx.split(model)
    parameters = nnx.filter_state(state, nnx.Param)
    trained = {key_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters)}

    def fn(state: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        module = nnx.merge(graph, state)
        out = module(*args, **kwargs)
        # A parameter that is handed back as it came would count as an output of the model.
        return out, nnx.state(module, nnx.Not(nnx.Param))

    return Target(fn, state, (), parameters, lambda path: path in trained, rebuilds=True)


def open_target(target: Target, call: Call) -> tuple[Body, list[Variable]]:
    """Trace a target and give every value its dimensions; inputs and outputs are frozen."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(target.variables)
    arrays = [abstract(leaf, format_path(key_path(path))) for path, leaf in leaves]
    for number, array in enumerate(call.arrays()):
        abstract(array, f"input {number}")

    def flat(given: list[Any], inputs: list[Any]) -> tuple[Any, Any]:
        args, kwargs = call.filled(inputs)
        return target.fn(jax.tree_util.tree_unflatten(treedef, given), *args, **kwargs)

    closed, shapes = _trace(flat, arrays, call.arrays())
    values = [Value(a.shape, a.dtype, d.new_dims(a.shape)) for a in arrays]
    inputs = [_input(number, array) for number, array in enumerate(call.arrays())]
    body = open_jaxpr(closed.jaxpr, closed.consts, [*values, *inputs])
    paths = [key_path(path) for path, _ in leaves]
    _check_distinct(paths)
    variables = [
        Variable(path, value, target.is_parameter(path))
        for path, value in zip(paths, values, strict=True)
    ]
    _freeze_outputs(body, shapes, variables)
    return body, variables


def abstract(leaf: Any, name: str) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array.

    Raises:
      UntraceableError: if it is none, or one of its axes has a symbolic size.
    """
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise UntraceableError(
            f"{name!r} is no array but a {type(leaf).__name__}; give find_zigs arrays or"
            " jax.ShapeDtypeStruct, and bind anything else to the function beforehand"
        )
    for axis, size in enumerate(leaf.shape):
        if not isinstance(size, int | np.integer):
            raise UntraceableError(
                f"axis {axis} of {name!r} has no fixed size ({size}); give it any number: what"
                " is found holds at every size, and oto_jax.narrow works at every size"
            )
    return abstract_array(leaf)


def _trace(fn: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    try:
        return jax.make_jaxpr(fn, return_shape=True)(*args)
    except OTOError:
        raise
    except Exception as error:
        raise UntraceableError(
            f"the model cannot be traced with these arguments: {type(error).__name__}: {error}"
        ) from error


def _input(number: int, array: Any) -> Value:
    dims = (
        d.new_dim(size, d.told(f"axis {axis} of input {number}"))
        for axis, size in enumerate(array.shape)
    )
    return Value(array.shape, array.dtype, tuple(dims))


def _freeze_outputs(body: Body, shapes: Any, variables: list[Variable]) -> None:
    """Freeze what the caller sees; an updated variable has the dimensions of the old one."""
    by_path = {variable.path: variable.value for variable in variables}
    paths = [key_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    for path, value in zip(paths, body.outs, strict=True):
        old = by_path.get(path[1:]) if path[0] == "1" else None
        if old is not None and old.shape == value.shape:
            for before, after in zip(old.dims, value.dims, strict=True):
                d.unify(before, after, d.told("an updated variable"))
            continue
        name = format_path(path[1:]) or "the output"
        for axis, dim in enumerate(value.dims):
            d.freeze(dim, d.told(f"axis {axis} of {name}"))


def _matcher(
    unprunable: Unprunable, variables: list[Variable], prefix: Path
) -> Callable[[Path], bool]:
    if callable(unprunable):
        predicate = unprunable
        return lambda path: bool(predicate(format_path(path[len(prefix) :])))
    globs = [unprunable] if isinstance(unprunable, str) else list(unprunable)
    names = [format_path(v.path[len(prefix) :]) for v in variables if v.is_parameter]
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise HyperparameterError(
                f"unprunable={glob!r} matches no parameter; the parameters are {', '.join(names)}"
            )
    return lambda path: any(
        fnmatch.fnmatchcase(format_path(path[len(prefix) :]), glob) for glob in globs
    )


def _check_distinct(paths: list[Path]) -> None:
    """Attributes called ``value`` are left out of paths, since most of them are boxes."""
    twice = [path for path, count in collections.Counter(paths).items() if count > 1]
    if twice:
        raise UntraceableError(
            f"two arrays have the path {format_path(twice[0])!r}, in which attributes called"
            " 'value' and 'raw_value' do not count: give them other names"
        )
