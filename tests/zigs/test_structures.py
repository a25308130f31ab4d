"""The law: cutting zero groups out leaves the outputs as they were, whatever the structure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oto_jax
from oto_jax.prune.narrow import narrow
from oto_jax.prune.plan import make_plan
from oto_jax.prune.slicing import slice_variables
from tests.zigs.structures import STRUCTURES


def random_params(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) + 0.1 for name, shape in shapes.items()}


def zero_half(params, zigs, seed=0, whole=0.0):
    """Half of each space's groups made zero, at least one left; all of a share of the spaces."""
    rng = np.random.default_rng(seed)
    count = lambda s: s.size if rng.random() < whole else max(1, s.size // 2)  # noqa: E731
    dead = [s.start + rng.permutation(s.size)[: count(s)] for s in zigs.spaces]
    gone = np.concatenate([np.array([], int), *dead])
    return jax.tree.map(lambda p, k: np.where(np.isin(k, gone), 0.0, p), params, zigs.masks)


def worst_difference(expected, found):
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-30)) for a, b in pairs)


def found_in_float64(name):
    """A structure with random inputs and parameters, and its groups."""
    s = STRUCTURES[name]
    rng = np.random.default_rng(3)
    inputs = [jnp.asarray(rng.normal(size=shape)) for shape in s.inputs]
    params = random_params(s.shapes, 5)
    return s, inputs, params, oto_jax.find_zigs(s.fn, params, *inputs, **s.options)


def assert_narrowed_equals_masked(name, masked, zigs, inputs):
    """Both compiled as one; returns the narrow parameters."""
    fn = STRUCTURES[name].fn
    slim_fn, slim = narrow(fn, masked, zigs)
    expected = jax.jit(fn)(jax.tree.map(jnp.asarray, masked), *inputs)
    bound = 1e-2 if "bfloat16" in name else 1e-12
    assert worst_difference(expected, jax.jit(slim_fn)(slim, *inputs)) <= bound
    return slim


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_narrowed_equals_masked(name):
    with jax.enable_x64(True):
        s, inputs, params, zigs = found_in_float64(name)
        assert tuple(sorted(space.size for space in zigs.spaces)) == s.sizes, zigs
        if not s.sizes:
            return
        slim = assert_narrowed_equals_masked(name, zero_half(params, zigs), zigs, inputs)
        assert sum(a.size for a in slim.values()) < sum(a.size for a in params.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(n for n, s in STRUCTURES.items() if s.sizes))
def test_of_a_space_that_is_all_zero_nothing_stays(name):
    with jax.enable_x64(True):
        _, inputs, params, zigs = found_in_float64(name)
        for space in zigs.spaces:
            dead = jax.tree.map(lambda k, space=space: np.isin(k, space.groups), zigs.masks)
            masked = jax.tree.map(lambda p, d: np.where(d, 0.0, p), params, dead)
            slim = assert_narrowed_equals_masked(name, masked, zigs, inputs)
            for member in space.members:
                array, axis = member.path[-1], member.axis
                assert slim[array].shape[axis] < params[array].shape[axis]


@pytest.mark.parametrize("name", sorted(n for n, s in STRUCTURES.items() if s.sizes))
def test_groups_partition_what_they_cover(name):
    s = STRUCTURES[name]
    params = {k: jax.ShapeDtypeStruct(shape, "float32") for k, shape in s.shapes.items()}
    inputs = [jax.ShapeDtypeStruct(shape, "float32") for shape in s.inputs]
    zigs = oto_jax.find_zigs(s.fn, params, *inputs, **s.options)
    covered = jax.tree.map(lambda p, k: np.broadcast_to(k, p.shape), params, zigs.masks)
    numbers = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(covered)])
    assert set(np.unique(numbers)) - {-1} == set(range(zigs.num_groups))
    axes = {(m.path, m.axis) for space in zigs.spaces for m in space.axes}
    axes |= {(row.path, row.axis) for row in zigs.blocked}
    wanted = {
        (leaf.path, axis)
        for leaf in zigs.parameters
        for axis, size in enumerate(leaf.shape)
        if size > 1
    }
    assert axes == wanted, "every axis is in a space or is blocked with a reason"


@pytest.mark.parametrize(
    "name", ["mlp", "conv_batch_norm", "custom_derivative", "scan_over_time", "gated_linear_unit"]
)
def test_gradients_of_the_narrowed_function(name):
    with jax.enable_x64(True):
        s, inputs, params, zigs = found_in_float64(name)
        masked = jax.tree.map(jnp.asarray, zero_half(params, zigs))
        slim_fn, slim = narrow(s.fn, masked, zigs)
        full = jax.jit(jax.grad(lambda p: jnp.sum(s.fn(p, *inputs) ** 2)))(masked)
        found = jax.jit(jax.grad(lambda p: jnp.sum(slim_fn(p, *inputs) ** 2)))(slim)
        plan = make_plan(masked, zigs)
        expected = slice_variables(full, plan)
        assert worst_difference(expected, found) <= 1e-10
