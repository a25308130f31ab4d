"""Models written in Haiku, Equinox and jraph: functions of a tree of arrays to the library."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.catalogue.architecture import Architecture, Subject, doubled, images, tokens


def _haiku(forward: Callable[..., Any], *inputs: Any, **training: bool) -> Subject:
    """A Haiku program; its state, such as running means, is not trained."""
    import haiku as hk

    net = hk.transform_with_state(forward)
    init = functools.partial(net.init, **dict.fromkeys(training, True))
    params, state = jax.eval_shape(init, jax.random.key(0), *inputs)

    def fn(variables: Any, *given: Any) -> Any:
        return net.apply(variables["params"], variables["state"], None, *given, **training)[0]

    return Subject(fn, doubled({"params": params, "state": state}), inputs)


def _haiku_resnet() -> Subject:
    import haiku as hk

    def forward(x: Any, is_training: bool) -> Any:
        return hk.nets.ResNet50(10, resnet_v2=True)(x, is_training)

    return _haiku(forward, images(32, batch=1), is_training=False)


def _haiku_mobilenet() -> Subject:
    import haiku as hk

    def forward(x: Any, is_training: bool) -> Any:
        return hk.nets.MobileNetV1(num_classes=10)(x, is_training)

    return _haiku(forward, images(32, batch=1), is_training=False)


def _haiku_transformer() -> Subject:
    model = _example("transformer", "model")

    def forward(ids: Any) -> Any:
        inner = model.Transformer(num_heads=4, num_layers=2, attn_size=8, dropout_rate=0.0)
        return model.LanguageModel(inner, model_size=32, vocab_size=50, pad_token=0)(ids)

    import haiku as hk

    net = hk.transform(forward)
    params = jax.eval_shape(net.init, jax.random.key(0), tokens())
    key = jax.random.key(0)
    return Subject(lambda params, ids: net.apply(params, key, ids), doubled(params), (tokens(),))


def _example(folder: str, name: str) -> Any:
    """A module of the examples that Haiku ships."""
    import haiku

    file = pathlib.Path(haiku.__file__).parents[1] / "examples" / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"haiku_example_{folder}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _haiku_lstm() -> Subject:
    import haiku as hk

    def forward(x: Any) -> Any:
        core = hk.DeepRNN([hk.Linear(12), jax.nn.relu, hk.LSTM(16), hk.GRU(10)])
        return hk.Linear(5)(hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))[0])

    return _haiku(forward, images(16).update(shape=(6, 2, 8)))


def _equinox(module: Any, call: Callable[..., Any], *inputs: Any) -> Subject:
    """An Equinox module; its arrays are the parameters."""
    import equinox as eqx

    params, static = eqx.partition(module, eqx.is_inexact_array)
    return Subject(
        lambda params, *given: call(eqx.combine(params, static), *given), doubled(params), inputs
    )


def _palm() -> Subject:
    from palm_jax.palm import PaLM

    model = PaLM(num_tokens=50, dim=32, dim_head=8, depth=2, heads=4, key=jax.random.PRNGKey(0))
    return _equinox(model, lambda m, ids: m(ids), tokens().update(shape=(8,)))


def _palm_lite() -> Subject:
    from palm_jax.palm_lite import PaLM

    model = PaLM(num_tokens=50, dim=32, dim_head=8, depth=2, heads=4, key=jax.random.PRNGKey(0))
    return _equinox(model, lambda m, ids: m(ids), tokens().update(shape=(8,)))


def _equinox_attention() -> Subject:
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 3)
    layers = (
        eqx.nn.Linear(8, 32, key=keys[0]),
        eqx.nn.MultiheadAttention(4, 32, use_query_bias=True, key=keys[1]),
        eqx.nn.MLP(32, 5, 24, depth=2, key=keys[2]),
    )

    def call(layers: Any, x: Any) -> Any:
        inner, attention, head = layers
        h = jax.vmap(inner)(x)
        return jax.vmap(head)(h + attention(h, h, h))

    return _equinox(layers, call, images(16).update(shape=(6, 8)))


def _equinox_convolutions() -> Subject:
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 5)
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 12, 3, padding=1, key=keys[0]),
            eqx.nn.GroupNorm(4, 12),
            eqx.nn.Lambda(eqx.nn.PReLU()),
            eqx.nn.Conv2d(12, 12, 3, groups=12, key=keys[1]),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(12, 16, 1, key=keys[2]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.ConvTranspose2d(16, 8, 2, stride=2, key=keys[3]),
            eqx.nn.AdaptiveAvgPool2d(1),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(8, 5, key=keys[4]),
        ]
    )
    picture = images(16).update(shape=(2, 3, 16, 16))
    return _equinox(net, lambda m, x: jax.vmap(m)(x), picture)


def _graph_network() -> Subject:
    """Three rounds of message passing on a fixed graph."""
    import haiku as hk
    import jraph

    graph = jraph.GraphsTuple(
        nodes=None, edges=None, globals=np.zeros((1, 1)), n_node=np.array([5]),
        n_edge=np.array([7]), senders=np.array([0, 1, 2, 3, 4, 0, 2]),
        receivers=np.array([1, 2, 3, 4, 0, 3, 1]),
    )  # fmt: skip

    def forward(nodes: Any, edges: Any) -> Any:
        def mlp(*inputs: Any) -> Any:
            return hk.nets.MLP([16, 12])(jnp.concatenate(inputs, axis=-1))

        given = graph._replace(nodes=nodes, edges=edges)
        for _ in range(2):
            given = jraph.GraphNetwork(
                update_edge_fn=lambda e, s, r, g: mlp(e, s, r),
                update_node_fn=lambda n, s, r, g: mlp(n, r),
            )(given)
        return hk.Linear(3)(given.nodes)

    floats = images(16)
    return _haiku(forward, floats.update(shape=(5, 6)), floats.update(shape=(7, 4)))


ARCHITECTURES = [
    Architecture("ResNet-50 v2 (Haiku)", "dm-haiku", _haiku_resnet),
    Architecture("MobileNet v1 (Haiku)", "dm-haiku", _haiku_mobilenet),
    Architecture("causal transformer (Haiku's example)", "dm-haiku", _haiku_transformer),
    Architecture("LSTM and GRU (Haiku)", "dm-haiku", _haiku_lstm),
    Architecture("PaLM (Equinox)", "palm-jax", _palm),
    Architecture("PaLM with ALiBi (Equinox)", "palm-jax", _palm_lite),
    Architecture("attention and MLP (Equinox)", "equinox", _equinox_attention),
    Architecture("convolutions (Equinox)", "equinox", _equinox_convolutions),
    Architecture("graph network (jraph)", "jraph", _graph_network),
]
