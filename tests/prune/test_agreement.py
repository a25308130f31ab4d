"""A slim program that computes something else is never handed out."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oto_jax
from oto_jax.prune.agreement import Program, check_agreement, check_shapes, check_values
from oto_jax.prune.plan import SOFTMAX_DEPTH, Override, plan_of_units
from oto_jax.prune.slicing import slice_variables
from oto_jax.prune.softmax_depth import scaled_attention
from tests.prune.hand_made import plain, zigs_of
from tests.prune.zeroing import randomised, zero_groups

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
PARAMS = {"a": jnp.asarray([[1.0, 0, 2, 3]] * 3), "b": jnp.arange(8.0).reshape(4, 2)}
ZIGS = zigs_of(PARAMS, [("a", 4, [plain(("a",), 1, 4)], [plain(("b",), 0, 4)])])
PLAN = plan_of_units(PARAMS, ZIGS, {"a": [0, 2, 3]})
SLIM = slice_variables(PARAMS, PLAN)


def net(scale, *, extra=False, draw=False):
    def fn(params, x):
        hidden = jnp.tanh(x @ params["a"]) * scale(params)
        if extra:
            hidden = jnp.sin(hidden) + hidden - jnp.sin(hidden)
        if draw:
            hidden = hidden * jax.random.bernoulli(jax.random.key(0), shape=hidden.shape)
        return hidden @ params["b"], None

    return fn


def width(params):
    return params["a"].shape[1]


def two(params):
    return 2.0


def check(full, slim, plan=PLAN, params=PARAMS, slim_params=SLIM):
    check_agreement(Program(full, params), Program(slim, slim_params), plan, [X])


def test_the_same_function_agrees():
    check(net(two), net(two))
    check(net(two, draw=True), net(two, draw=True))


def test_a_width_in_a_formula_does_not():
    for draw in (False, True):
        with pytest.raises(oto_jax.UnprunableModelError, match=r"3\.?0? where .* 4"):
            check(net(width, draw=draw), net(width, draw=draw))
    shapes = jax.eval_shape(lambda: PARAMS), jax.eval_shape(lambda: SLIM)
    with pytest.raises(oto_jax.UnprunableModelError, match="4"):
        check(net(width), net(width), params=shapes[0], slim_params=shapes[1])


def test_other_steps_with_the_same_values_agree():
    check(net(two), net(two, extra=True))


def test_the_scale_of_attention_is_trusted_where_values_cannot_tell():
    scaled = (Override((), (SOFTMAX_DEPTH,), 8),)
    plan = oto_jax.Plan(PLAN.spaces, PLAN.arrays, (), "widths", scaled)
    check(net(two, draw=True), net(two, extra=True, draw=True), plan)
    with pytest.raises(oto_jax.UnprunableModelError, match="steps"):
        check(net(two, draw=True), net(two, extra=True, draw=True))


def test_values_are_compared_in_full_precision():
    seen = []

    def model(params, x):
        seen.append(jax.config.jax_default_matmul_precision)
        return net(two)(params, x)

    check_values(Program(model, PARAMS), Program(model, SLIM), PLAN, [X], "")
    assert set(seen) == {"highest", None}  # None where only shapes and types are asked for.


def test_outputs_and_updates_keep_their_shapes():
    full, slim = Program(net(two), PARAMS), Program(lambda p, x: (p["b"], None), SLIM)
    with pytest.raises(oto_jax.UnprunableModelError, match=r"output.*\(3, 2\), not \(2, 2\)"):
        check_shapes(full, slim, PLAN, [X])
    full, slim = (
        Program(lambda p, x: (x, {"b": jnp.zeros((4, 2))}), params) for params in (PARAMS, SLIM)
    )
    with pytest.raises(oto_jax.UnprunableModelError, match="updated variable 'b'"):
        check_shapes(full, slim, PLAN, [X])


def test_scaled_attention_equals_full_attention_with_zeros():
    """For any kept part of the head dimension, in float64."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 5, 2, 8))
    for attention, equal in ((nn.dot_product_attention, False), (nnx.dot_product_attention, True)):
        for kept in ([0], [1, 4, 5], list(range(8))):
            with jax.enable_x64(True):
                zeroed = np.zeros_like(q)
                zeroed[..., kept] = q[..., kept]
                full = attention(jnp.asarray(zeroed), jnp.asarray(k), jnp.asarray(v))
                attend = scaled_attention(attention, 8, equal)
                slim = attend(*(jnp.asarray(a[..., kept]) for a in (q, k)), jnp.asarray(v))
                np.testing.assert_allclose(slim, full, rtol=1e-12, atol=1e-14)
    assert scaled_attention(attention, 8) is scaled_attention(attention, 8)
    assert scaled_attention(scaled_attention(attention, 8), 4) is scaled_attention(attention, 8)


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
