"""BERT pruned along every kind of group computes what the masked one does."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oto_jax
from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig, Compute

EXACT = Compute(param_dtype=jnp.float64)
SMALL = BertConfig.uniform(2, 24, 3, 16, vocabulary=50, positions=16, dropout=0.0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def make(config, batch, length, seed=0):
    """A BERT with random weights of unequal sizes, and inputs with padding."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, config.vocabulary, (batch, length)).astype(np.int32)
    types = np.broadcast_to(np.arange(length) > length // 4, ids.shape).astype(np.int32)
    mask = (np.arange(length) < draw.integers(length // 2, length + 1, (batch, 1))).astype(np.int32)
    model = BertForQuestionAnswering(config, EXACT)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)
    scale = 2 * config.init_stddev

    def weights(path, leaf):
        noise = draw.standard_normal(leaf.shape) * scale
        return noise + 1 if path[-1].key == "scale" else noise

    return model, jax.tree_util.tree_map_with_path(weights, shapes), (ids, types, mask)


def with_zeros(variables, zigs, dead):
    """The variables with groups put to zero, ``dead`` being true for each of those."""
    dead = np.append(dead, False)  # What is in no group has the number -1.
    params = jax.tree.map(lambda p, m: np.where(dead[m], 0.0, p), variables["params"], zigs.masks)
    return {**variables, "params": params}


def some_dead(zigs, shares, seed=0):
    """For each group whether it dies: a share of each space, by a word in the space's name."""
    draw, dead = np.random.default_rng(seed), np.zeros(zigs.num_groups, bool)
    for space in zigs.spaces:
        share = next((s for word, s in shares.items() if word in space.name), 0.0)
        chosen = draw.choice(space.size, int(share * space.size), replace=False)
        dead[space.start + chosen] = True
    return dead


def find(model, variables, inputs, **options):
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
    return oto_jax.find_zigs(model, shapes, *inputs, train=False, **options)


def cut(model, variables, inputs, attention, shares):
    """Masked variables of the full model, and the pruned one."""
    zigs = find(model, variables, inputs, attention=attention)
    masked = with_zeros(variables, zigs, some_dead(zigs, shares))
    return masked, oto_jax.prune(model, masked, zigs)


def worst(left, right):
    return float(jnp.max(jnp.abs(left - right)))


def test_heads_dimensions_and_units_go_one_after_the_other():
    model, variables, inputs = make(SMALL, 2, 12)
    first, slim = cut(model, variables, inputs, "heads", {"ffn": 0.5, "query": 0.34})
    shares = {"query": 0.25, "value": 0.5}
    second, slimmer = cut(slim.model, slim.variables, inputs, "head_dim", shares)
    assert isinstance(slimmer.model, BertForQuestionAnswering)
    widths = slimmer.model.config.layers
    assert [dataclasses.astuple(layer) for layer in widths] == [(2, 6, 4, 8)] * 2
    assert slimmer.model.config.softmax_scale == SMALL.softmax_scale
    assert slimmer.model.config == SMALL.with_widths_of(slimmer.variables["params"])
    apply = [
        jax.jit(m.apply)(v, *inputs)
        for m, v in ((model, first), (slim.model, second), (slimmer.model, slimmer.variables))
    ]
    assert worst(apply[1], apply[2]) < 1e-12
    assert worst(apply[0], jax.jit(slim.model.apply)(slim.variables, *inputs)) < 1e-12


def test_the_residual_width_goes_through_layer_norm():
    """Exact through `narrow`: the traced LayerNorm divides by the width it was traced with."""
    model, variables, inputs = make(SMALL, 2, 12)
    zigs = find(model, variables, inputs, narrow_only=True)
    residual = [space for space in zigs.spaces if space.size == SMALL.hidden]
    assert len(residual) == 1
    masked = with_zeros(variables, zigs, some_dead(zigs, {residual[0].name: 0.5, "ffn": 0.25}))
    fn, slim = oto_jax.narrow(model.apply, masked, zigs)
    assert slim["params"]["encoder"]["embeddings"]["word"]["embedding"].shape == (50, 12)
    assert slim["params"]["encoder"]["layer_1"]["ffn"]["intermediate"]["kernel"].shape == (12, 12)
    assert worst(model.apply(masked, *inputs), fn(slim, *inputs)) < 1e-11


@pytest.mark.slow
def test_bert_base_pruned_equals_masked_and_is_faster():
    """Half the FFN units, a third of the heads, a quarter of the Q/K dimensions; sequence 384."""
    model, variables, inputs = make(BertConfig(dropout=0.0, attention_dropout=0.0), 1, 384)
    masked, heads = cut(model, variables, inputs, "heads", {"ffn": 0.5, "query": 1 / 3})
    zigs = find(heads.model, heads.variables, inputs, attention="head_dim")
    dead = some_dead(zigs, {"query": 0.25})
    slim = oto_jax.prune(heads.model, with_zeros(heads.variables, zigs, dead), zigs)
    # The same zeros in the full model: its Q/K dimensions are zero in every head.
    both = with_zeros(masked, *_in_the_full_model(model, masked, inputs, zigs, dead))
    assert [dataclasses.astuple(w) for w in slim.model.config.layers] == [(8, 48, 64, 1536)] * 12
    certificate = oto_jax.certify((model, both), slim, *inputs, train=False)
    print(certificate)
    assert certificate.absolute <= 1e-9
    ratio = _latency_ratio(model, both, slim, inputs)
    macs = certificate.slim.macs / certificate.full.macs
    print(f"latency at sequence 384, float32: {ratio:.3f} of the full one; MACs {macs:.3f}")
    assert ratio < 1


def _in_the_full_model(model, variables, inputs, zigs, dead):
    full = find(model, variables, inputs, attention="head_dim")
    full_dead = np.zeros(full.num_groups, bool)
    starts = {space.name: space.start for space in full.spaces}
    for space in zigs.spaces:
        if "query" in space.name:
            chosen = starts[space.name] + np.flatnonzero(dead[list(space.groups)])
            full_dead[chosen] = True
    return full, full_dead


def _latency_ratio(model, variables, slim, inputs, repeats=9):
    """Median time of the slim model over that of the full one, taken in turns, in float32."""
    calls = []
    for full_or_slim, held in ((model, variables), (slim.model, slim.variables)):
        single = full_or_slim.clone(compute=Compute())
        held = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), held)
        calls.append((jax.jit(single.apply), held))
    times = [[], []]
    for _ in range(repeats):
        for spent, (run, held) in zip(times, calls, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run(held, *inputs))
            spent.append(time.perf_counter() - start)
    full, narrow = (np.median(spent[1:]) for spent in times)
    return narrow / full
