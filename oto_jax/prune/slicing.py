"""Slices variables and optimizer state along a plan, and puts zeros where a plan cut."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import ZIGMismatchError
from oto_jax.prune.plan import ArrayPlan, Plan
from oto_jax.prune.zero_units import host_values
from oto_jax.zigs.partition import Path, format_path, key_path


@runtime_checkable
class Shrinkable(Protocol):
    """A node of a state that knows how to shrink itself.

    State that does not mirror the parameters, such as a vector with an entry per group, offers
    this one method: it returns the node for the slim model. `Plan.kept_groups` are the indices
    that a vector over all groups keeps, ``plan.units(name).positions`` those of one space.
    """

    def shrink(self, plan: Plan) -> Any:
        """The node for the slim model."""


def slice_variables(variables: Any, plan: Plan) -> Any:
    """The variables of the slim model: every array cut as the plan says.

    Args:
      variables: the pytree the plan was made for. Leaves are NumPy or JAX arrays or
        `jax.ShapeDtypeStruct`, boxed or bare, on one device or sharded.

    Returns:
      The same pytree with smaller arrays. A sharded array keeps its sharding on every axis that
      the mesh still divides.

    Raises:
      ZIGMismatchError: if an array is missing or has another shape.

    Example:
      >>> import numpy as np
      >>> from oto_jax.prune.plan import ArrayPlan, Cut, Plan
      >>> plan = Plan((), (ArrayPlan(("w",), (3, 2), ((0, Cut.of(3, [0, 2])),)),), ())
      >>> slice_variables({"w": np.arange(6).reshape(3, 2)}, plan)["w"].tolist()
      [[0, 1], [4, 5]]
    """
    return _map_arrays(slice_array, variables, plan, lambda array: array.shape)


def widen(variables: Any, plan: Plan) -> Any:
    """The variables of the full model that a slim one stands for: what was cut is zero again.

    With them the full model computes what the slim one does, so a slim model from disk can be
    certified against the architecture it came from, also after several cuts
    (`oto_jax.compose_plans`). Statistics of a cut unit, such as a variance of BatchNorm, become
    zero too; its epsilon keeps the division finite.

    Args:
      variables: those of the slim model: NumPy or JAX arrays or `jax.ShapeDtypeStruct`, boxed or
        bare.
      plan: the plan from the full model to the slim one.

    Returns:
      The same pytree with full arrays. Those that were cut are NumPy arrays.

    Raises:
      ZIGMismatchError: if an array is missing or has another shape.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)).at[:, 1].set(0), "b": jnp.ones((3, 1))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> fn, slim = oto_jax.narrow(f, params, zigs)
      >>> full = oto_jax.widen(slim, oto_jax.make_plan(params, zigs))
      >>> full["a"][0].tolist(), full["b"][:, 0].tolist()
      ([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
      >>> oto_jax.certify((f, full), (fn, slim), jnp.ones((1, 2))).absolute
      0.0
    """
    return _map_arrays(_widened, variables, plan, lambda array: array.slim_shape)


def _map_arrays(
    change: Callable[[Any, ArrayPlan], Any],
    variables: Any,
    plan: Plan,
    shape_of: Callable[[ArrayPlan], tuple[int, ...]],
) -> Any:
    """Every array changed by its plan, after checking that it has the shape the plan expects."""
    missing = dict(plan.by_path)

    def changed(path: tuple[Any, ...], leaf: Any) -> Any:
        array = missing.pop(key_path(path), None)
        if array is None:
            raise ZIGMismatchError(
                f"the plan knows no array {format_path(key_path(path))!r}; pass the variables"
                " that it was made for"
            )
        if tuple(np.shape(leaf)) != shape_of(array):
            raise ZIGMismatchError(
                f"{format_path(array.path)!r} has shape {tuple(np.shape(leaf))}, the plan was made"
                f" for {shape_of(array)}"
            )
        return change(leaf, array)

    mapped = jax.tree_util.tree_map_with_path(changed, variables)
    if missing:
        raise ZIGMismatchError(
            f"the variables have no {format_path(next(iter(missing)))!r}, which the plan covers;"
            " pass the variables that it was made for"
        )
    return mapped


def _widened(leaf: Any, array: ArrayPlan) -> Any:
    """One array with zeros where the plan cut it."""
    if not array.cuts:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, leaf.dtype)
    cuts = dict(array.cuts)
    kept = [
        cuts[axis].positions if axis in cuts else np.arange(size)
        for axis, size in enumerate(array.shape)
    ]
    values = host_values(array.path, leaf)
    full = np.zeros(array.shape, values.dtype)
    full[np.ix_(*kept)] = values
    return full


def slice_array(leaf: Any, array: ArrayPlan) -> Any:
    """One array cut along its last ``len(array.shape)`` axes."""
    extra = len(np.shape(leaf)) - len(array.shape)
    if not array.cuts:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((*leaf.shape[:extra], *array.slim_shape), leaf.dtype)
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
        return _placed(_take(host_values(array.path, leaf), array, extra), leaf)
    return _take(leaf, array, extra)


def _take(leaf: Any, array: ArrayPlan, extra: int) -> Any:
    take = jnp.take if isinstance(leaf, jax.Array) else np.take
    for axis, cut in array.cuts:
        leaf = take(leaf, cut.positions, axis=axis + extra)
    return leaf


def _placed(values: np.ndarray, leaf: jax.Array) -> jax.Array:
    """Values cut on the host, back where the full array lies.

    On the host, since a gather compiles anew for every shape, and from an array that is sharded
    explicitly it is no matter of course.
    """
    if isinstance(leaf.sharding, jax.sharding.NamedSharding):
        return jax.device_put(values, _sharding_of(leaf.sharding, values.shape))
    return jax.device_put(values, leaf.sharding) if leaf.committed else jnp.asarray(values)


def _sharding_of(
    sharding: jax.sharding.NamedSharding, shape: tuple[int, ...]
) -> jax.sharding.NamedSharding:
    """The sharding for another shape, replicated along the axes that it no longer divides."""
    spec = [
        names if size % _shards(sharding.mesh, names) == 0 else None
        for names, size in zip(sharding.spec, shape, strict=False)
    ]
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*spec))


def _shards(mesh: Any, names: Any) -> int:
    group = names if isinstance(names, tuple) else () if names is None else (names,)
    return math.prod(mesh.shape[name] for name in group)


def shrink(state: Any, plan: Plan) -> Any:
    """Optimizer or training state for the slim model, so that training goes on exactly.

    Zero groups stay zero under HSPG (Chen et al. 2021, Section 3.2), so cutting them and every
    statistic about them leaves the trajectory of the others as it was.

    A leaf belongs to a parameter when its path ends in the parameter's, inside a subtree that
    mirrors the parameters; it is then cut like the parameter along its last axes, whatever
    wrappers stand above (``optax.chain``, ``MultiSteps``, ``inject_hyperparams``, ``partition``,
    ``masked``, an `nnx.Optimizer`, a Flax ``TrainState`` with ``params`` and ``batch_stats``).
    Axes in front, such as those of replicas or of an L-BFGS history, stay. Scalars and leaves
    of no parameter stay as they are. A node with a method ``shrink(plan)`` (`Shrinkable`) is
    asked to shrink itself.

    Args:
      state: any pytree.
      plan: the plan of the `Pruned` model.

    Returns:
      The same pytree with smaller arrays. Functions in it, such as ``TrainState.apply_fn``, still
      belong to the full model: replace them.

    Raises:
      ZIGMismatchError: if a leaf of a parameter has a shape that does not follow from the
        parameter's, or could belong to several parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from oto_jax.prune.plan import ArrayPlan, Cut, Plan
      >>> plan = Plan((), (ArrayPlan(("w",), (3,), ((0, Cut.of(3, [0, 2])),)),), ())
      >>> state = optax.adam(1e-3).init({"w": jnp.ones(3)})
      >>> shrink(state, plan)[0].mu["w"].shape
      (2,)
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(state, is_leaf=_shrinks_itself)
    known = _known_suffixes(plan)
    splits = {key_path(path): _splits(key_path(path), known) for path, _ in leaves}
    mirrored = Counter(prefix for found in splits.values() for prefix, _ in found)
    return jax.tree_util.tree_unflatten(
        treedef,
        [
            _shrink_leaf(key_path(path), leaf, splits, mirrored, known, plan)
            for path, leaf in leaves
        ],
    )


def _shrinks_itself(node: Any) -> bool:
    return not isinstance(node, type) and isinstance(node, Shrinkable)


def _known_suffixes(plan: Plan) -> dict[Path, ArrayPlan]:
    """The arrays by every path that a state may know them by: with and without collection."""
    known = {array.path: array for array in plan.arrays}
    depth = len(plan.prefix)
    for array in plan.arrays:
        if depth and array.path[:depth] == plan.prefix:
            known[array.path[depth:]] = array
    for array in plan.arrays:
        if depth:
            known.setdefault(array.path[1:], array)
    return known


def _splits(path: Path, known: Mapping[Path, ArrayPlan]) -> list[tuple[Path, ArrayPlan]]:
    """Every way to read ``path`` as where a copy of the parameters lies, and a parameter."""
    return [
        (path[:start], known[path[start:]]) for start in range(len(path)) if path[start:] in known
    ]


def _shrink_leaf(
    path: Path,
    leaf: Any,
    splits: Mapping[Path, list[tuple[Path, ArrayPlan]]],
    mirrored: Counter[Path],
    known: Mapping[Path, ArrayPlan],
    plan: Plan,
) -> Any:
    if _shrinks_itself(leaf):
        return leaf.shrink(plan)
    found = splits[path]
    if not found:
        _check_no_group_vector(path, leaf, plan)
        _check_no_part(path, leaf, known)
    if not found or np.size(leaf) <= 1 or not any(array.cuts for _, array in found):
        return leaf
    return _slice_state(path, leaf, _owner(path, found, mirrored))


def _check_no_group_vector(path: Path, leaf: Any, plan: Plan) -> None:
    """Raise for a vector over groups whose node is gone, as where a state became dictionaries.

    It has the name of a space that is cut, and an entry for each unit.
    """
    for space in plan.spaces:
        of_space = path[-1:] == (space.name,) and not space.units.whole
        if of_space and np.shape(leaf)[-1:] == (space.units.size,):
            raise ZIGMismatchError(
                f"state {format_path(path)!r} is a vector over groups outside of the node that it"
                " belongs to, which knows how to shrink itself: shrink the optimizer's state (or"
                " the nnx.Optimizer) as it is, not a tree of dictionaries made of it"
            )


def _check_no_part(path: Path, leaf: Any, known: Mapping[Path, ArrayPlan]) -> None:
    """Raise for one of several arrays that stand in a parameter's place, as long as a cut axis.

    Such as the accumulators of `optax.sm3`, one for each of the parameter's axes.
    """
    shape = tuple(np.shape(leaf))
    above = [array for end in range(1, len(path)) for _, array in _splits(path[:end], known)]
    for array in above:
        if any(array.shape[axis] in shape for axis, _ in array.cuts):
            raise _unclear(path, shape, f"within the place of {format_path(array.path)!r}")


def _unclear(path: Path, shape: tuple[int, ...], beside: str) -> ZIGMismatchError:
    return ZIGMismatchError(
        f"state {format_path(path)!r} has shape {shape}, {beside}; how to cut it does not follow:"
        " give the node that holds it a method shrink(plan), or initialise the optimizer on the"
        " slim parameters"
    )


def _owner(path: Path, found: list[tuple[Path, ArrayPlan]], mirrored: Counter[Path]) -> ArrayPlan:
    """The parameter whose copy lies in the subtree that mirrors most parameters."""
    most = max(mirrored[prefix] for prefix, _ in found)
    owners = {array.path: array for prefix, array in found if mirrored[prefix] == most}
    if len({(array.shape, array.cuts) for array in owners.values()}) > 1:
        names = " or ".join(format_path(owner) for owner in owners)
        raise ZIGMismatchError(
            f"state {format_path(path)!r} could belong to {names}; give the node that holds it a"
            " method shrink(plan)"
        )
    return next(iter(owners.values()))


def _slice_state(path: Path, leaf: Any, array: ArrayPlan) -> Any:
    shape = tuple(np.shape(leaf))
    square = shape == (*array.shape, *array.shape)  # a second moment across a vector, say
    if shape[max(len(shape) - len(array.shape), 0) :] == array.shape and not square:
        return slice_array(leaf, array)
    hint = " (was it shrunk already?)" if shape == array.slim_shape else ""
    beside = f"the parameter {format_path(array.path)!r} has {array.shape}{hint}"
    raise _unclear(path, shape, beside)
