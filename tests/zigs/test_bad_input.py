"""Mistakes in what discovery and narrowing are given are named, with what to do about them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oto_jax

MODEL = nn.Sequential([nn.Dense(6), nn.relu, nn.Dense(2)])
X = jax.ShapeDtypeStruct((3, 4), "float32")
PARAMS = {
    "a": jax.ShapeDtypeStruct((4, 6), "float32"),
    "b": jax.ShapeDtypeStruct((6, 2), "float32"),
}


def variables_of(model, *args):
    return jax.eval_shape(model.init, jax.random.key(0), *args)


def mlp(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def random_params(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=leaf.shape).astype("float32") for name, leaf in PARAMS.items()}


def test_a_function_that_branches_on_values_is_untraceable():
    def fn(params, x):
        return mlp(params, x) if x.sum() > 0 else x

    with pytest.raises(oto_jax.UntraceableError, match="TracerBoolConversionError"):
        oto_jax.find_zigs(fn, PARAMS, X)


def test_a_shape_that_depends_on_values_is_untraceable():
    def fn(params, x):
        return mlp(params, x[jnp.nonzero(x[:, 0])])

    with pytest.raises(oto_jax.UntraceableError, match="ConcretizationTypeError"):
        oto_jax.find_zigs(fn, PARAMS, X)


def test_a_symbolic_shape_is_refused_with_advice():
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 4), "float32")
    with pytest.raises(oto_jax.UntraceableError, match=r"axis 0 .* has no fixed size"):
        oto_jax.find_zigs(mlp, PARAMS, x)


def test_an_input_of_the_wrong_width_is_untraceable():
    with pytest.raises(oto_jax.UntraceableError, match="dot_general requires contracting"):
        oto_jax.find_zigs(mlp, PARAMS, jax.ShapeDtypeStruct((3, 5), "float32"))


def test_numpy_parameters_and_inputs_are_as_good_as_any():
    abstract = oto_jax.find_zigs(mlp, PARAMS, X)
    concrete = oto_jax.find_zigs(mlp, random_params(), np.ones((3, 4), np.float32))
    assert concrete == abstract
    assert abstract.num_groups == 6


@pytest.mark.parametrize("leaf", [1.5, [0.0, 1.0], "weights"])
def test_a_parameter_that_is_no_array_is_named(leaf):
    with pytest.raises(oto_jax.UntraceableError, match=r"'c.*' is no array"):
        oto_jax.find_zigs(mlp, {**PARAMS, "c": leaf}, X)


def test_parameters_alone_are_not_the_variables_of_a_linen_model():
    variables = variables_of(MODEL, X)
    with pytest.raises(oto_jax.UntraceableError, match="'params' collection"):
        oto_jax.find_zigs(MODEL, variables["params"], X)


def test_variables_without_running_statistics_are_untraceable():
    model = nn.Sequential([nn.Dense(6), nn.BatchNorm(use_running_average=True), nn.Dense(2)])
    variables = variables_of(model, X)
    with pytest.raises(oto_jax.UntraceableError, match="batch_stats"):
        oto_jax.find_zigs(model, {"params": variables["params"]}, X)


def test_variables_of_another_model_are_untraceable():
    with pytest.raises(oto_jax.UntraceableError, match="layers_0"):
        oto_jax.find_zigs(MODEL, variables_of(nn.Dense(6), X), X)


def test_a_model_without_its_variables():
    with pytest.raises(oto_jax.UntraceableError, match="variables"):
        oto_jax.find_zigs(MODEL)


def test_a_class_in_place_of_a_module():
    with pytest.raises(oto_jax.UntraceableError, match="an instance"):
        oto_jax.find_zigs(nn.Dense, variables_of(MODEL, X), X)


def test_something_that_is_no_model():
    with pytest.raises(oto_jax.UntraceableError, match="not dict"):
        oto_jax.find_zigs(PARAMS, X)


def test_dropout_without_a_random_stream_is_untraceable():
    model = nn.Sequential([nn.Dense(6), nn.Dropout(0.5, deterministic=False), nn.Dense(2)])
    variables = {"params": {f"layers_{i}": v for i, v in _dense_layers().items()}}
    with pytest.raises(oto_jax.UntraceableError, match="dropout"):
        oto_jax.find_zigs(model, variables, X)
    zigs = oto_jax.find_zigs(model, variables, X, rngs={"dropout": jax.random.key(0)})
    assert zigs.num_groups == 6


def _dense_layers():
    shapes = {0: (4, 6), 2: (6, 2)}
    return {
        i: {
            "kernel": jax.ShapeDtypeStruct(shape, "float32"),
            "bias": jax.ShapeDtypeStruct(shape[1:], "float32"),
        }
        for i, shape in shapes.items()
    }


def test_an_nnx_model_that_is_called_wrongly_is_untraceable():
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    with pytest.raises(oto_jax.UntraceableError, match="missing 1 required positional argument"):
        oto_jax.find_zigs(model)


def test_a_model_without_parameters():
    with pytest.raises(oto_jax.UnprunableModelError, match="no parameters"):
        oto_jax.find_zigs(lambda params, x: x, {}, X)


@pytest.mark.parametrize("globs", ["c", ["a", "c*"]])
def test_unprunable_that_matches_nothing(globs):
    with pytest.raises(oto_jax.HyperparameterError, match=r"'c.?' matches no parameter.*a, b"):
        oto_jax.find_zigs(mlp, PARAMS, X, unprunable=globs)


def test_an_unknown_kind_of_attention():
    with pytest.raises(oto_jax.HyperparameterError, match="'heads' or 'head_dim'"):
        oto_jax.find_zigs(mlp, PARAMS, X, attention="head")


def test_groups_of_another_model_do_not_fit():
    zigs = oto_jax.find_zigs(mlp, PARAMS, X)
    wider = {"a": np.ones((4, 7), np.float32), "b": np.ones((7, 2), np.float32)}
    with pytest.raises(oto_jax.ZIGMismatchError, match=r"'a' has shape \(4, 7\)"):
        oto_jax.narrow(mlp, wider, zigs)
    with pytest.raises(oto_jax.ZIGMismatchError, match="no 'a'"):
        oto_jax.narrow(mlp, {"w": wider["a"]}, zigs)


def test_a_function_of_another_structure_does_not_fit():
    zigs = oto_jax.find_zigs(mlp, PARAMS, X)
    params = random_params()
    params["a"][:, [1, 4]] = 0

    def pairs(params, x):
        h = jax.nn.relu(x @ params["a"])
        return (h.reshape(-1, 3, 2).swapaxes(1, 2).reshape(-1, 6) + h) @ params["b"]

    slim_fn, slim = oto_jax.narrow(pairs, params, zigs)
    with pytest.raises(oto_jax.ZIGMismatchError, match="structure of this program"):
        slim_fn(slim, jnp.ones((3, 4)))


def test_full_variables_are_not_the_narrow_ones():
    zigs = oto_jax.find_zigs(mlp, PARAMS, X)
    params = random_params()
    params["a"][:, 2] = 0
    slim_fn, _ = oto_jax.narrow(mlp, params, zigs)
    with pytest.raises(oto_jax.ZIGMismatchError, match="variables that narrow returned"):
        slim_fn(params, jnp.ones((3, 4)))


def test_abstract_parameters_have_no_zero_groups():
    zigs = oto_jax.find_zigs(mlp, PARAMS, X)
    with pytest.raises(oto_jax.ZIGMismatchError, match="pass the trained variables"):
        oto_jax.narrow(mlp, PARAMS, zigs)


def test_parameters_that_are_not_finite():
    zigs = oto_jax.find_zigs(mlp, PARAMS, X)
    params = random_params()
    params["b"][0, 0] = np.nan
    with pytest.raises(oto_jax.NonFiniteParametersError, match="'b' holds NaN"):
        oto_jax.narrow(mlp, params, zigs)


def test_explaining_a_parameter_that_is_not_there():
    zigs = oto_jax.find_zigs(mlp, PARAMS, X)
    with pytest.raises(oto_jax.ZIGMismatchError, match="no parameter 'c'; the parameters are a, b"):
        zigs.explain("c")
