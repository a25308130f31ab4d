"""`ZIGs.layers`: kernels and tables in the order of the program, with the axes of their outputs."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

import oto_jax
from oto_jax.models.resnet import ResNet20


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, "float32") for name, size in sizes.items()}


def layers_of(fn, params, *inputs):
    return [(layer.path[-1], layer.axes) for layer in oto_jax.find_zigs(fn, params, *inputs).layers]


X = jax.ShapeDtypeStruct((2, 4), "float32")


@given(st.permutations("abcdef"), st.integers(1, 5))
def test_layers_come_in_the_order_of_the_program_whatever_their_names(names, width):
    def net(params, x):
        for name in names:
            x = jnp.tanh(x @ params[name] + params[f"bias_{name}"][None])
        return x

    sizes = [4, *[width] * 5, 3]
    params = {name: (sizes[k], sizes[k + 1]) for k, name in enumerate(names)}
    biases = {f"bias_{name}": (sizes[k + 1],) for k, name in enumerate(names)}
    assert layers_of(net, shapes(**params, **biases), X) == [(name, (1,)) for name in names]


def test_layers_that_cannot_be_pruned_are_among_them():
    params = shapes(a=(4, 6), b=(6, 3))
    zigs = oto_jax.find_zigs(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, X)
    assert [layer.path for layer in zigs.layers] == [("a",), ("b",)]
    assert len(zigs.spaces) == 1


def test_a_transposed_kernel_has_its_own_axis():
    params = shapes(a=(6, 4), b=(3, 6))
    found = layers_of(lambda p, x: jax.nn.relu(x @ p["a"].T) @ p["b"].T, params, X)
    assert found == [("a", (0,)), ("b", (0,))]


def test_windows_are_no_outputs():
    model = nn.Sequential([nn.Conv(6, (3, 5)), nn.relu, nn.Conv(6, (3, 3), feature_group_count=6)])
    image = jax.ShapeDtypeStruct((1, 8, 8, 2), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    zigs = oto_jax.find_zigs(model, variables, image)
    assert [(layer.path[1], layer.axes) for layer in zigs.layers] == [
        ("layers_0", (3,)),
        ("layers_2", (3,)),
    ]


def test_a_table_that_is_also_the_head_counts_twice_and_positions_do_not():
    params = shapes(table=(20, 8), positions=(1, 5, 8))
    ids = jax.ShapeDtypeStruct((3, 5), "int32")

    def net(params, ids):
        return (jnp.take(params["table"], ids, axis=0) + params["positions"]) @ params["table"].T

    assert layers_of(net, params, ids) == [("table", (1,)), ("table", (0,))]


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint])
def test_layers_inside_of_calls_are_found(wrap):
    params = shapes(a=(4, 6), b=(6, 3))

    @wrap
    def first(kernel, x):
        return jax.nn.relu(x @ kernel)

    assert layers_of(lambda p, x: first(p["a"], x) @ p["b"], params, X) == [
        ("a", (1,)),
        ("b", (1,)),
    ]


def test_a_stack_that_a_loop_runs_through_is_one_layer():
    params = shapes(stack=(7, 4, 4), last=(4, 3))

    def net(params, x):
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])
        return x @ params["last"]

    assert layers_of(net, params, X) == [("stack", (2,)), ("last", (1,))]


def test_a_resnet_has_its_convolutions_and_its_head():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    model = ResNet20()
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    found = [layer.path[1:] for layer in oto_jax.find_zigs(model, variables, image).layers]
    assert len(found) == 20
    assert found[:3] == [
        ("stem_conv", "kernel"),
        ("stage1_block1", "conv1", "kernel"),
        ("stage1_block1", "conv2", "kernel"),
    ]
    assert found[-1] == ("head", "kernel")


def test_the_slim_models_groups_keep_them():
    params = {"a": jnp.ones((4, 6)).at[:, 1].set(0), "b": jnp.ones((6, 3))}
    zigs = oto_jax.find_zigs(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, X)
    assert oto_jax.shrink_zigs(zigs, oto_jax.make_plan(params, zigs)).layers == zigs.layers
