"""`save` and `load`: slim models to and from checkpoints, and whether a model fits one.

How a checkpoint lies on disk is in `checkpoint_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import CheckpointError
from oto_jax.prune.checkpoint_files import PathLike, check_place, read, write
from oto_jax.prune.fingerprint import contradict, fingerprint
from oto_jax.prune.framework import framework_of
from oto_jax.prune.plan import Plan
from oto_jax.prune.prune import Pruned
from oto_jax.prune.tree_text import read_skeleton, skeleton
from oto_jax.prune.zero_units import host_values
from oto_jax.zigs.partition import Path, format_path, leaves_by_path


def save(path: PathLike, pruned: Pruned, *, overwrite: bool = False) -> None:
    """Writes a slim model: its plan as JSON, its arrays through Orbax.

    Args:
      path: the directory to make.
      pruned: what `prune` returned; its variables may have been trained further.
      overwrite: replace a checkpoint that is already there, once the new one is whole. Anything
        else that stands there stays, and is an error.

    Raises:
      CheckpointError: if something stands at ``path`` already, or cannot be written, or does not
        read back as written. What stood there stays as it was.
      ZIGMismatchError: if the variables hold no values.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> x = jnp.ones((1, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> slim = oto_jax.prune(model, variables, oto_jax.find_zigs(model, variables, x))
      >>> place = tempfile.mkdtemp() + "/slim"
      >>> oto_jax.save(place, slim)
      >>> again = oto_jax.load(place, model)
      >>> bool((again.model.apply(again.variables, x) == slim.model.apply(slim.variables, x)).all())
      True
    """
    target = check_place(path, overwrite=overwrite)
    arrays = _host_arrays(pruned.variables)
    _check_slim(pruned)
    write(target, _content(pruned, arrays), list(arrays.values()))


def load(path: PathLike, model: Any) -> Pruned:
    """The slim model that `save` wrote, rebuilt from the full model's object.

    Args:
      path: the checkpoint's directory.
      model: the full model, built as it was for `prune`; its own weights play no part.

    Returns:
      Model, variables (plain dictionaries for Linen) and plan as they were saved.

    Raises:
      CheckpointError: if the checkpoint is missing, incomplete, damaged, or of another model: the
        message names the first array that differs; or says that a model of the same shapes
        computes something else, which is told where JAX, Flax and their settings are the same.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> x = jnp.ones((1, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> slim = oto_jax.prune(model, variables, oto_jax.find_zigs(model, variables, x))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     oto_jax.save(f"{folder}/slim", slim)
      ...     again = oto_jax.load(f"{folder}/slim", model)
      >>> bool((again.model.apply(again.variables, x) == slim.model.apply(slim.variables, x)).all())
      True
    """
    document, arrays = _read(path)
    plan = Plan.from_json(document["plan"])
    match framework_of(model):
        case "linen":
            return _load_linen(document, arrays, model, plan)
        case "nnx":
            from oto_jax.prune import nnx

            _check_shapes(plan, leaves_by_path(nnx.state_of(model)))
            slim = nnx.restore(model, plan, arrays)
            pruned = Pruned(slim, nnx.state_of(slim), plan)
            _check_program(document, pruned)
            return pruned
    _check_class(document, model)
    return Pruned(model, read_skeleton(document["tree"], arrays), plan)


def _load_linen(
    document: Mapping[str, Any], arrays: Mapping[Path, Any], model: Any, plan: Plan
) -> Pruned:
    from oto_jax.prune import linen

    if plan.call is None:  # Then the model's class is all there is to go by.
        _check_class(document, model)
    initial = linen.initial_shapes(model, plan.call) if plan.call else None
    if initial is not None:
        _check_shapes(plan, initial)
    variables = read_skeleton(document["tree"], arrays)
    try:
        slim = linen.restore(model, plan)
        if plan.call:
            linen.program(slim, variables, plan.call).shapes(plan.call.arrays())
    except Exception as error:  # Whatever a user's module raises on variables of another model.
        raise CheckpointError(
            f"the checkpoint does not fit this {type(model).__name__}: {error}; load it into the"
            " model that was pruned"
        ) from error
    pruned = Pruned(slim, variables, plan)
    _check_program(document, pruned)
    return pruned


def _check_program(document: Mapping[str, Any], pruned: Pruned) -> None:
    """Where both can be traced alike, the model has to compute what the saved one did."""
    saved, found = document.get("program"), _program(pruned)
    if saved and found and contradict(saved, found):
        raise CheckpointError(
            f"this {type(pruned.model).__name__} has the shapes of the model that was pruned, but"
            " computes something else; load the checkpoint into that model"
        )


def _program(pruned: Pruned) -> dict[str, Any] | None:
    """The fingerprint of the slim model on the call that it was found with.

    None where there is no call, or variables that it reads are not there.
    """
    call, framework = pruned.plan.call, framework_of(pruned.model)
    if call is None or not pruned.plan.by_path.keys() <= leaves_by_path(pruned.variables).keys():
        return None
    match framework:
        case "linen":
            from oto_jax.prune import linen

            return fingerprint(linen.program(pruned.model, pruned.variables, call), call)
        case "nnx":
            from oto_jax.prune import nnx

            return fingerprint(nnx.program(nnx.evaluating(pruned.model), call), call)
    return None


def _check_class(document: Mapping[str, Any], model: Any) -> None:
    saved, given = document["model"], type(model).__name__
    if saved != given:
        what = f"the class {model.__name__} itself" if isinstance(model, type) else f"a {given}"
        raise CheckpointError(
            f"the checkpoint is of a {saved}, not of {what}; load it into the model that was pruned"
        )


def _check_shapes(plan: Plan, model: Mapping[Path, Any]) -> None:
    """Compares the full model's arrays with those the plan was made for."""
    wanted = {array.path: array.shape for array in plan.arrays}
    for path in sorted(wanted.keys() | model.keys()):
        given = tuple(np.shape(model[path])) if path in model else "absent"
        if given != wanted.get(path, "absent"):
            raise CheckpointError(
                f"{format_path(path)!r} is {given} in this model and"
                f" {wanted.get(path, 'absent')} in the one that was pruned; load the checkpoint"
                " into that model"
            )


def _host_arrays(variables: Any) -> dict[Path, np.ndarray]:
    return {path: _bits(path, leaf) for path, leaf in leaves_by_path(variables).items()}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(path: Path, leaf: Any) -> np.ndarray:
    return host_values(path, jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _content(pruned: Pruned, arrays: Mapping[Path, np.ndarray]) -> dict[str, Any]:
    """All that is written as JSON, but for the checksums."""
    implementations = {
        path: str(jax.random.key_impl(leaf))
        for path, leaf in leaves_by_path(pruned.variables).items()
        if _is_key(leaf)
    }
    return {
        "model": type(pruned.model).__name__,
        "program": _program(pruned),
        "plan": pruned.plan.to_json(),
        "tree": skeleton(pruned.variables),
        "arrays": [
            {
                "path": path,
                "shape": array.shape,
                "dtype": array.dtype.name,
                "key": implementations.get(path),
            }
            for path, array in arrays.items()
        ],
    }


def _check_slim(pruned: Pruned) -> None:
    """Compares the variables with what the plan leaves of the full model's."""
    by_path = pruned.plan.by_path
    for path, leaf in leaves_by_path(pruned.variables).items():
        given = tuple(np.shape(leaf))
        if path in by_path and given != by_path[path].slim_shape:
            raise CheckpointError(
                f"{format_path(path)!r} has shape {given}, and in the slim model"
                f" {by_path[path].slim_shape}: save that model's own variables"
            )


def _read(path: PathLike) -> tuple[dict[str, Any], dict[Path, Any]]:
    """The JSON content, and the arrays by path."""
    content, found = read(path)
    arrays: dict[Path, Any] = {}
    for entry, array in zip(content["arrays"], found, strict=True):
        key = entry["key"]
        arrays[tuple(entry["path"])] = (
            jax.random.wrap_key_data(jnp.asarray(array), impl=key) if key else array
        )
    return content, arrays
