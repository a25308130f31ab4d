"""BERT's own laws: what padding, widths, zeros, and ways of computing may and may not change."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oto_jax.models.bert import BertEncoder, BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig, BertConfigError, Compute, LayerWidths

WIDTHS = LayerWidths(heads=3, qk_dim=4, v_dim=5, ffn=7)
CONFIG = BertConfig(
    layers=(WIDTHS,),
    hidden=12,
    vocabulary=40,
    positions=16,
    softmax_scale=0.4,
)
IDS = np.random.default_rng(0).integers(0, 40, (2, 10), np.int32)
MASK = np.arange(10) < np.array([[10], [7]])
TYPES = np.broadcast_to(np.arange(10) >= 4, (2, 10)).astype(np.int32)
DEFAULT = Compute()
EXACT = Compute(param_dtype=jnp.float64)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These networks are compiled often and run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def init(config, compute=DEFAULT, seed=0):
    """A model and variables in which no parameter is zero."""
    model = BertForQuestionAnswering(config, compute)
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IDS, TYPES, MASK)
    return model, jax.tree.map(
        lambda leaf: draw.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes
    )


@functools.partial(jax.jit, static_argnames=("model", "train"))
def apply(model, variables, ids=IDS, types=TYPES, mask=MASK, train=False, key=None):
    rngs = None if key is None else {"dropout": key}
    return model.apply(variables, ids, types, mask, train=train, rngs=rngs)


def worst(left, right):
    return float(jnp.max(jnp.abs(left - right)))


def count(config):
    shapes = jax.eval_shape(
        BertForQuestionAnswering(config).init, jax.random.key(0), jnp.ones((1, 4), int)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_parameter_counts_are_the_published_ones():
    # transformers counts 109,482,240 in bert-base-uncased and 4,385,920 in BERT-tiny, poolers
    # (hidden^2 + hidden) included; the head for answers has 2 hidden + 2.
    assert count(BertConfig()) == 109_482_240 - (768**2 + 768) + 2 * 768 + 2
    tiny = BertConfig.uniform(depth=2, hidden=128, heads=2, ffn=512)
    assert count(tiny) == 4_385_920 - (128**2 + 128) + 2 * 128 + 2


def test_padding_changes_nothing():
    with jax.enable_x64(True):
        model, variables = init(CONFIG, EXACT)
        other = np.where(MASK, IDS, (IDS + 1) % 40)
        padded = apply(model, variables)
        replaced = apply(model, variables, other)
        assert worst(padded[MASK], replaced[MASK]) < 1e-13
        shorter = apply(model, variables, IDS[1:, :7], TYPES[1:, :7], MASK[1:, :7])
        assert worst(shorter, padded[1:, :7]) < 1e-12


@settings(max_examples=5)
@given(st.data())
def test_zeroed_structures_can_be_cut_out(data):
    """The pruned model is the same class at the widths that are left, with the same outputs."""
    with jax.enable_x64(True):
        model, variables = init(CONFIG, EXACT)
        params = jax.tree.map(np.asarray, variables["params"])
        slim = jax.tree.map(np.copy, params)
        for number, widths in enumerate(CONFIG.layers):
            name = f"layer_{number}"
            for space, size in dataclasses.asdict(widths).items():
                keep = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
                cut(params["encoder"][name], slim["encoder"][name], space, np.array(keep))
        config = CONFIG.with_widths_of(slim)
        assert config.softmax_scale == CONFIG.softmax_scale
        masked = apply(model, {"params": params})
        pruned = apply(BertForQuestionAnswering(config, EXACT), {"params": slim})
        assert worst(masked, pruned) < 1e-11


AXES = {  # Space: (layer, axis of its kernel, axis of its bias) that produce, axis that consumes.
    "heads": ([("query", 1, 0), ("key", 1, 0), ("value", 1, 0)], ("output", 0)),
    "qk_dim": ([("query", 2, 1), ("key", 2, 1)], None),
    "v_dim": ([("value", 2, 1)], ("output", 1)),
    "ffn": ([("intermediate", 1, 0)], ("output", 0)),
}


def cut(full, slim, space, keep):
    """Zeroes the units that are not kept in ``full``, and removes them from ``slim``."""
    part = "ffn" if space == "ffn" else "attention"
    producers, consumer = AXES[space]
    for name, kernel_axis, bias_axis in producers:
        for leaf, axis in (("kernel", kernel_axis), ("bias", bias_axis)):
            whole, cutting = full[part][name], slim[part][name]
            shape = [1] * whole[leaf].ndim
            shape[axis] = -1
            whole[leaf] = whole[leaf] * keep.reshape(shape)
            cutting[leaf] = np.compress(keep, cutting[leaf], axis)
    if consumer:
        name, axis = consumer
        slim[part][name]["kernel"] = np.compress(keep, slim[part][name]["kernel"], axis)


def test_widths_of_zero_pass_the_stream_on():
    empty = dataclasses.replace(CONFIG, layers=(LayerWidths(0, 4, 5, 0), LayerWidths(2, 0, 3, 5)))
    model, variables = init(empty)
    assert np.isfinite(apply(model, variables)).all()


def test_widths_cannot_be_negative():
    with pytest.raises(BertConfigError, match="negative"):
        LayerWidths(2, 4, -1, 8)


def test_ways_of_computing_agree_in_value_and_gradient():
    with jax.enable_x64(True):
        config = dataclasses.replace(CONFIG, attention_dropout=0.0)
        plain, variables = init(config, EXACT)

        @functools.partial(jax.jit, static_argnums=0)
        def value_and_gradient(model):
            def loss(variables):
                return jnp.sum(apply(model, variables, train=True, key=jax.random.key(3)) ** 2)

            return jax.value_and_grad(loss)(variables)

        expected = jax.tree.leaves(value_and_gradient(plain))
        # JAX's own attention takes the softmax in float32.
        for change, bound in (({"attention": "xla"}, 1e-5), ({"remat": True}, 1e-10)):
            other = BertForQuestionAnswering(config, dataclasses.replace(EXACT, **change))
            found = jax.tree.leaves(value_and_gradient(other))
            for left, right in zip(expected, found, strict=True):
                np.testing.assert_allclose(left, right, rtol=bound, atol=bound)


def test_remat_recomputes():
    def softmaxes(remat):
        model, variables = init(CONFIG, Compute(remat=remat))
        gradient = jax.grad(lambda v: jnp.sum(model.apply(v, IDS, TYPES, MASK)))
        return str(jax.make_jaxpr(gradient)(variables)).count("reduce_max")

    assert softmaxes(remat=True) == softmaxes(remat=False) + len(CONFIG.layers)


def test_bfloat16_computes_close_by_with_float32_parameters():
    model, variables = init(CONFIG)
    half = BertForQuestionAnswering(model.config, Compute(dtype=jnp.bfloat16))
    low, high = (apply(m, variables) for m in (half, model))
    assert low.dtype == jnp.float32
    assert 0 < worst(low, high) < 0.05 * float(jnp.max(jnp.abs(high)))
    started = jax.eval_shape(half.init, jax.random.key(0), IDS)
    assert {leaf.dtype for leaf in jax.tree.leaves(started)} == {jnp.dtype("float32")}


def test_dropout_is_on_in_training_alone():
    model, variables = init(CONFIG)
    first, again, other = (
        apply(model, variables, train=True, key=jax.random.key(number)) for number in (1, 1, 2)
    )
    assert worst(first, again) == 0
    assert worst(first, other) > 1e-3
    assert worst(first, apply(model, variables)) > 1e-3


def test_a_text_that_is_too_long_is_named():
    with pytest.raises(BertConfigError, match="17 tokens is longer than the 16 positions"):
        BertEncoder(CONFIG).init(jax.random.key(0), jnp.ones((1, 17), int))


def test_fused_attention_refuses_dropout():
    model = BertForQuestionAnswering(CONFIG, Compute(attention="xla"))
    with pytest.raises(BertConfigError, match="attention_dropout=0"):
        jax.eval_shape(functools.partial(model.init, train=True), jax.random.key(0), IDS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BertConfig(activation="tanh"), "unknown activation 'tanh'"),
        (lambda: BertConfig(hidden=0), "at least 1"),
        (lambda: BertConfig.uniform(2, 100, 3, 8), "3 heads do not divide"),
        (lambda: Compute(attention="flash"), "unknown attention 'flash'"),
    ],
)
def test_impossible_configurations_are_named(make, words):
    with pytest.raises(BertConfigError, match=words):
        make()
