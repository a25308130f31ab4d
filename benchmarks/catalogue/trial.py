"""What happens when discovery, narrowing and rebuilding are tried on one architecture."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import Jaxpr

import oto_jax
from benchmarks.catalogue.architecture import Architecture, Subject, random_inputs, random_like
from benchmarks.zeroing import with_zeros
from oto_jax.zigs.partition import leaves_by_path


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one architecture.

    Attributes:
      name: of the architecture.
      package: where its code comes from, with the version.
      kind: linen, nnx or function.
      equations: of its traced program, inner jaxprs included.
      parameters: trained entries.
      spaces: sets of axes that are cut together.
      groups: zero-invariant groups.
      groupable: share of the parameters' entries that belong to a group.
      removed: share of the parameters that is gone once half of each space's groups are.
      discovery_s: seconds of `find_zigs`.
      trace_s: seconds of `jax.make_jaxpr` of the same function.
      precision: the coarsest floating-point type in the program.
      effect: how far zeroing half of the groups moved the outputs, of the largest output.
      narrowed: worst difference of `narrow` against the masked model, of the largest output.
      rebuilt: what `prune` made: the same class, a wrapped module, or the named error.
      difference: of the rebuilt module, of the largest output.
    """

    name: str
    package: str
    kind: str
    equations: int
    parameters: int
    spaces: int
    groups: int
    groupable: float
    removed: float
    discovery_s: float
    trace_s: float
    precision: str
    effect: float
    narrowed: float | None
    rebuilt: str
    difference: float | None


@dataclasses.dataclass(frozen=True)
class Pure:
    """A subject as ``fn(variables, *args, **kwargs)``."""

    kind: str
    fn: Callable[..., Any]
    variables: Any


def pure(subject: Subject) -> Pure:
    """The function and variables of a subject."""
    model = subject.model
    if isinstance(model, nnx.Module):
        graph, state = nnx.split(model)
        return Pure("nnx", lambda state, *a, **k: nnx.merge(graph, state)(*a, **k), state)
    if isinstance(model, nn.Module):
        return Pure("linen", model.apply, subject.variables)
    return Pure("function", model, subject.variables)


def seconds(fn: Callable[[], Any], repeats: int = 2) -> tuple[float, Any]:
    """The shortest wall time of a few calls, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = fn()
        best = min(best, time.perf_counter() - start)
    return best, result


def half_of_each(zigs: oto_jax.ZIGs, seed: int) -> np.ndarray:
    """The numbers of half of each space's groups, drawn at random, at least one of each."""
    rng = np.random.default_rng(seed)
    dead = [s.start + rng.permutation(s.size)[: max(1, s.size // 2)] for s in zigs.spaces]
    return np.concatenate([np.zeros(0, int), *dead])


def measure(architecture: Architecture, version: str, seed: int, limit: float) -> Row:
    """Runs discovery, `narrow` and, on a Flax module, `prune`; compares with the masked model.

    Args:
      architecture: what to build.
      version: its package and version, for the row.
      seed: of weights, inputs and of which groups are zero.
      limit: seconds after which `prune` is given up; 0 leaves it out.

    Raises:
      OTOError: if discovery or narrowing refuses the model.
    """
    subject = architecture.build()
    full = pure(subject)
    arguments = (full.variables, *subject.args)
    trace_s, closed = seconds(lambda: _trace(full.fn, arguments, subject.kwargs))
    discovery_s, zigs = seconds(lambda: _discover(subject, architecture))
    variables = random_like(full.variables, seed)
    masked = with_zeros(variables, zigs, half_of_each(zigs, seed))
    args = random_inputs(subject.args, seed)
    run = compiled(full.fn, args, subject.kwargs)
    expected = run(masked)
    if zigs.num_groups:
        slim_fn, slim = oto_jax.narrow(full.fn, masked, zigs)
        narrowed = difference(expected, compiled(slim_fn, args, subject.kwargs)(slim))
    else:
        slim, narrowed = masked, None
    rebuilt, apart = "", None
    if limit and full.kind != "function" and zigs.num_groups and not architecture.options:
        rebuilt, apart = _rebuild(subject, masked, zigs, args, expected, limit)
    return Row(
        name=architecture.name,
        package=version,
        kind=full.kind,
        equations=sum(1 for _ in equations(closed.jaxpr)),
        parameters=_entries(full.variables, zigs),
        spaces=len(zigs.spaces),
        groups=zigs.num_groups,
        groupable=groupable(zigs),
        removed=1 - _entries(slim, zigs) / _entries(full.variables, zigs),
        discovery_s=discovery_s,
        trace_s=trace_s,
        precision=precision(closed.jaxpr),
        effect=difference(run(variables), expected),
        narrowed=narrowed,
        rebuilt=rebuilt,
        difference=apart,
    )


def _trace(fn: Callable[..., Any], arguments: tuple[Any, ...], kwargs: Any) -> Any:
    arrays, rest = split_arrays(arguments)
    return jax.make_jaxpr(lambda *given: fn(*rest(given), **kwargs))(*arrays)


def split_arrays(tree: Any) -> tuple[list[Any], Callable[[Any], Any]]:
    """The arrays of a tree, and the function that puts others in their place."""
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    where = [k for k, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]

    def fill(given: Any) -> Any:
        filled = list(leaves)
        for k, leaf in zip(where, given, strict=True):
            filled[k] = leaf
        return jax.tree_util.tree_unflatten(treedef, filled)

    return [leaves[k] for k in where], fill


def _discover(subject: Subject, architecture: Architecture) -> oto_jax.ZIGs:
    given = (subject.model,) if subject.variables is None else (subject.model, subject.variables)
    options = {**architecture.options, **subject.kwargs}
    return oto_jax.find_zigs(*given, *subject.args, **options)


def compiled(fn: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[Any], Any]:
    """``fn`` with its inputs filled in, compiled, as a function of the variables."""
    arrays, rest = split_arrays(args)

    @jax.jit
    def run(variables: Any, *given: Any) -> list[Any]:
        return jax.tree_util.tree_leaves(fn(variables, *rest(given), **kwargs))

    return lambda variables: run(variables, *arrays)


def _rebuild(
    subject: Subject, masked: Any, zigs: oto_jax.ZIGs, args: Any, expected: Any, limit: float
) -> tuple[str, float | None]:
    """What `prune` makes of a Flax module, and how far its outputs are from the masked ones."""
    try:
        with at_most(limit):
            pruned = oto_jax.prune(subject.model, masked, zigs)
    except oto_jax.OTOError as error:
        return f"{type(error).__name__}: {error}", None
    except OutOfTime:
        return f"unfinished: prune found no rebuilt module within {limit:.0f} seconds", None
    slim = pure(Subject(pruned.model, pruned.variables, args))
    found = compiled(slim.fn, args, subject.kwargs)(pruned.variables)
    same = type(pruned.model) is type(subject.model)
    return ("same class" if same else "wrapped"), difference(expected, found)


class OutOfTime(BaseException):
    """Raised where something runs too long; no ``except Exception`` on the way takes it."""


@contextmanager
def at_most(limit: float) -> Iterator[None]:
    """Interrupt what runs inside after so many seconds.

    Raises:
      OutOfTime: from within.
    """

    def interrupt(_signal: int, _frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def difference(expected: list[Any], found: list[Any]) -> float:
    """The worst difference of any output, of the largest magnitude in that output.

    Raises:
      ArithmeticError: if the outputs are zero throughout or not finite: agreement would say
        nothing.
    """
    pairs = list(zip(expected, found, strict=True))
    scales = [float(np.abs(np.asarray(a, np.float64)).max()) for a, _ in pairs]
    if not np.isfinite(scales).all() or not any(scales):
        raise ArithmeticError(f"outputs of magnitude {scales} show nothing")
    gaps = [
        float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) for a, b in pairs
    ]
    return max(gap / scale if scale else gap for gap, scale in zip(gaps, scales, strict=True))


def groupable(zigs: oto_jax.ZIGs) -> float:
    """The share of the parameters' entries that belong to a group."""
    sizes = {leaf.path: leaf for leaf in zigs.parameters}
    held = 0
    for path, pairs in zigs.members_by_path.items():
        leaf = sizes[path]
        axis = pairs[0][1].axis
        units = [member.unit_of_position(leaf.shape[axis]) for _, member in pairs]
        positions = int((np.max(units, axis=0) >= 0).sum())
        held += positions * (leaf.size // leaf.shape[axis])
    return held / sum(leaf.size for leaf in zigs.parameters)


def _entries(variables: Any, zigs: oto_jax.ZIGs) -> int:
    trained = {leaf.path for leaf in zigs.parameters}
    leaves = leaves_by_path(variables).items()
    return sum(int(np.prod(leaf.shape)) for path, leaf in leaves if path in trained)


def precision(jaxpr: Any) -> str:
    """The coarsest floating-point type that a program computes in."""
    found = {var.aval.dtype for eqn in equations(jaxpr) for var in eqn.outvars}
    floats = [dtype for dtype in found if jnp.issubdtype(dtype, np.inexact)]
    return str(max(floats, key=lambda dtype: float(jnp.finfo(dtype).eps), default="none"))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr, at any depth."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for entry in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(entry, "jaxpr", entry)
                if isinstance(inner, Jaxpr):
                    yield from equations(inner)
