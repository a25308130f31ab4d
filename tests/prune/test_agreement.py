"""A slim program that computes something else is never handed out."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oto_jax
from oto_jax.prune.agreement import Program, check_agreement, check_shapes, check_values
from oto_jax.prune.plan import plan_of_units
from oto_jax.prune.same_program import first_difference
from oto_jax.prune.slicing import slice_variables
from tests.prune.hand_made import plain, zigs_of
from tests.prune.zeroing import randomised, zero_groups

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
KEY = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
PARAMS = {"a": jnp.asarray([[1.0, 0, 2, 3]] * 3), "b": jnp.arange(8.0).reshape(4, 2)}
ZIGS = zigs_of(PARAMS, [("a", 4, [plain(("a",), 1, 4)], [plain(("b",), 0, 4)])])
PLAN = plan_of_units(PARAMS, ZIGS, {"a": [0, 2, 3]})
SLIM = slice_variables(PARAMS, PLAN)


def net(scale, *, extra=False, draw=None):
    def fn(params, x, key):
        hidden = jnp.tanh(x @ params["a"]) * scale(params)
        if extra:
            hidden = jnp.sin(hidden) + hidden - jnp.sin(hidden)
        if draw:
            hidden = hidden * jax.random.bernoulli(draw(key), shape=hidden.shape)
        return hidden @ params["b"], None

    return fn


def given(key):
    return jax.random.fold_in(key, 3)


def constant(key):
    return jax.random.key(3)


def width(params):
    return params["a"].shape[1]


def two(params):
    return 2.0


def check(full, slim, plan=PLAN, params=PARAMS, slim_params=SLIM):
    check_agreement(Program(full, params), Program(slim, slim_params), plan, [X, KEY])


def test_the_same_function_agrees():
    check(net(two), net(two))
    check(net(two, draw=given), net(two, draw=given))


def test_a_width_in_a_formula_does_not():
    shapes = {
        "params": jax.eval_shape(lambda: PARAMS),
        "slim_params": jax.eval_shape(lambda: SLIM),
    }
    for draw, values in itertools.product((None, given), ({}, shapes)):
        with pytest.raises(oto_jax.UnprunableModelError, match=r"3\.?0? where .* 4"):
            check(net(width, draw=draw), net(width, draw=draw), **values)


@pytest.mark.parametrize("low", [float(np.finfo(np.float32).min), -1e9, 0.0])
def test_a_mask_among_the_outputs_hides_nothing(low):
    """A mean over the width, in other steps at another width, beside large numbers."""

    def masked(params, x, key):
        hidden = jnp.tanh(x @ params["a"])
        total = jnp.sum(jnp.ones_like(hidden[:, ::1]), -1, keepdims=True)
        hidden = hidden * total if hidden.shape[1] == 4 else (hidden * 1.0) * total
        out = hidden @ params["b"]
        return jnp.where(jnp.asarray([[True, False]]), out, low), None

    with pytest.raises(oto_jax.UnprunableModelError, match="off by"):
        check(masked, masked)


def test_other_steps_with_the_same_values_agree():
    check(net(two), net(two, extra=True))


def test_other_steps_are_refused_where_values_cannot_tell():
    with pytest.raises(oto_jax.UnprunableModelError, match="where the full model computes"):
        check(net(two, draw=given), net(two, draw=given, extra=True))
    shapes = jax.eval_shape(lambda: PARAMS), jax.eval_shape(lambda: SLIM)
    with pytest.raises(oto_jax.UnprunableModelError, match="where the full model computes"):
        check(net(two), net(two, extra=True), params=shapes[0], slim_params=shapes[1])


def test_numbers_drawn_from_a_key_in_the_code_are_other_numbers():
    with pytest.raises(oto_jax.UnprunableModelError, match="a key that is not given.*test_agree"):
        check(net(two, draw=constant), net(two, draw=constant))


def test_steps_that_do_nothing_at_the_slim_width_may_be_missing():
    """One unit spread over one unit, on either side; but not where it does something."""

    plan = plan_of_units(PARAMS, ZIGS, {"a": [2]})
    slim = slice_variables(PARAMS, plan)

    def times_first(always):
        def fn(params, x):
            hidden = jnp.tanh(x @ params["a"])
            first = x[:, :1]
            if always or hidden.shape[1] > 1:
                first = jax.lax.broadcast_in_dim(first, hidden.shape, (0, 1))
            return (hidden * first) @ params["b"]

        return fn

    for left, right in itertools.product(map(times_first, (False, True)), repeat=2):
        assert first_difference(left, PARAMS, right, slim, plan, [X]) is None
    mirrored = times_first(True)
    other = first_difference(
        mirrored, PARAMS, lambda p, x: mirrored(p, x[:, ::-1]), slim, plan, [X]
    )
    assert other is not None
    assert other.kind == "steps"


def test_an_index_of_a_size_excuses_no_other_number():
    """Values decide about an index; a width in a formula after it is refused all the same."""

    def indexed(params, x, key):
        hidden = jnp.tanh(x @ params["a"])
        index = jnp.argmax(x[0]) - 3  # counted from the end
        index = jnp.where(index < 0, index + hidden.shape[1], index)
        return (hidden + 0 * jax.lax.convert_element_type(index, x.dtype)) @ params["b"], None

    def with_width(params, x, key):
        out, _ = indexed(params, x, key)
        rare = x[:, :1] > 10
        return jnp.where(rare, out * params["a"].shape[1], out), None

    check(indexed, indexed)
    with pytest.raises(oto_jax.UnprunableModelError, match="mul uses 3.* 4"):
        check(with_width, with_width)


def test_values_are_compared_in_full_precision():
    seen = []

    def model(params, x):
        seen.append(jax.config.jax_default_matmul_precision)
        return net(two)(params, x, None)

    with jax.default_matmul_precision("tensorfloat32"):
        check_values(Program(model, PARAMS), Program(model, SLIM), PLAN, [X], "")
    assert seen.count("highest") >= 2


def test_outputs_and_updates_keep_their_shapes():
    full = Program(lambda p, x: net(two)(p, x, None), PARAMS)
    slim = Program(lambda p, x: (p["b"], None), SLIM)
    with pytest.raises(oto_jax.UnprunableModelError, match=r"output.*\(3, 2\), not \(2, 2\)"):
        check_shapes(full, slim, PLAN, [X])
    full, slim = (
        Program(lambda p, x: (x, {"b": jnp.zeros((4, 2))}), params) for params in (PARAMS, SLIM)
    )
    with pytest.raises(oto_jax.UnprunableModelError, match="updated variable 'b'"):
        check_shapes(full, slim, PLAN, [X])


class Norm(nn.Module):
    """A mean over the units: narrowed exactly, but not to be rebuilt."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        h = nn.RMSNorm(dtype=self.dtype)(nn.Dense(self.width, dtype=self.dtype)(x))
        return nn.Dense(3, dtype=self.dtype)(h).astype(jnp.float32)


class TimesWidth(nn.Module):
    """What is multiplied by the width is another number in a narrower network."""

    dtype: Any = None
    logarithm: bool = False
    counts: bool = False

    @nn.compact
    def __call__(self, x):
        x = jnp.log(x) if self.logarithm else x
        h = nn.relu(nn.Dense(8, dtype=self.dtype)(x))
        scaled = h * h.shape[-1]
        if self.counts:
            total = self.variable("stats", "total", lambda: jnp.zeros(()))
            total.value = scaled.sum()
            scaled = h
        return nn.Dense(3, dtype=self.dtype)(scaled)


@pytest.mark.parametrize(
    "model, zeros, options",
    [
        (Norm(256, jnp.bfloat16), 60, {"narrow_only": True}),
        (Norm(1024), 2, {"narrow_only": True}),
        (TimesWidth(jnp.bfloat16), 1, {}),
        (TimesWidth(jnp.float16), 1, {}),
        (TimesWidth(logarithm=True), 2, {}),
        (TimesWidth(counts=True), 2, {"mutable": ["stats"]}),
    ],
)
def test_a_small_difference_is_no_rounding(model, zeros, options):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6)), jnp.float32)
    x = jnp.abs(x) + 0.1 if getattr(model, "logarithm", False) else x
    variables = randomised(model.init(jax.random.key(0), x))
    zigs = oto_jax.find_zigs(model, variables, x, **options)
    dead = {**variables, "params": zero_groups(variables["params"], zigs, np.arange(zeros))}
    with pytest.raises(oto_jax.UnprunableModelError):
        oto_jax.prune(model, dead, zigs)
