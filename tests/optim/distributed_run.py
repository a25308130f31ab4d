"""Trains one network in every way of spreading it over devices; run by `test_distributed`.

``python -m tests.optim.distributed_run DIRECTORY`` runs all ways in this process; with
``PROCESS PROCESSES PORT`` behind it, it is one of several processes over one mesh. Parameters and
zero groups after every run go to ``DIRECTORY/<way>-<optimizer>.npz``; what XLA made of the steps,
as JSON, to ``DIRECTORY/collectives.json``.
"""

import collections
import functools
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import oto_jax
from oto_jax.optim import norms, parts
from oto_jax.zigs.partition import leaves_by_path

STEPS, BATCH, WIDTH, HIDDEN = 100, 32, 16, 24
DEVICES = 8


def network(params, x):
    """A stream of 16 channels with two residual blocks of 24 hidden units."""
    x = jnp.tanh(x @ params["stem"])
    for name in ("one", "two"):
        block = params[name]
        x = x + jax.nn.relu(x @ block["up"] + block["bias"]) @ block["down"]
    return x @ params["head"]


def initial_params():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))  # noqa: E731
    block = lambda: {  # noqa: E731
        "up": normal(WIDTH, HIDDEN), "bias": jnp.zeros(HIDDEN), "down": normal(HIDDEN, WIDTH)
    }  # fmt: skip
    return {"stem": normal(8, WIDTH), "one": block(), "two": block(), "head": normal(WIDTH, 8)}


def batch_of(step):
    rng = np.random.default_rng(step)
    x = rng.normal(size=(BATCH, 8))
    return x, np.sin(3 * x)


def loss(params, x, y):
    return jnp.mean((network(params, x) - y) ** 2)


def optimizers(zigs):
    hspg = functools.partial(oto_jax.hspg, 0.05, zigs, momentum=0.9, start_step=30)
    return {
        "faithful": hspg(lmbda=2e-2, epsilon=0.9, upper_group_sparsity={"one*": 0.5}),
        "target": hspg(target_group_sparsity=0.6, target_steps=50),
        "adamw": optax.chain(
            oto_jax.add_group_lasso(1e-2, zigs),
            optax.adamw(1e-2),
            oto_jax.project_half_space(zigs, epsilon=0.9, start_step=30),
        ),
    }


gradient_of_loss = jax.grad(loss)


def one_step(tx, gradient=gradient_of_loss):
    def step(params, state, x, y):
        grads = gradient(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def mesh(kind):
    return jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(kind,))


def replicated(m, _):
    return NamedSharding(m, PartitionSpec())


def across_groups(m, x):
    """Sharded along the first axis: groups that lie along the last straddle all devices."""
    return NamedSharding(
        m, PartitionSpec("data" if x.shape and x.shape[0] % DEVICES == 0 else None)
    )


def along_groups(m, x):
    """Sharded along the last axis, where it divides."""
    axes = [None] * (x.ndim - 1) + ["data" if x.shape and x.shape[-1] % DEVICES == 0 else None]
    return NamedSharding(m, PartitionSpec(*axes[: x.ndim]))


def on_one_device(tx, params):
    step = jax.jit(one_step(tx))
    return step, params, tx.init(params), lambda batch: batch


def with_pmap(tx, params):
    gradient = lambda *a: jax.lax.pmean(jax.grad(loss)(*a), "data")  # noqa: E731
    step = jax.pmap(one_step(tx, gradient), axis_name="data")
    copies = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * DEVICES), tree)  # noqa: E731
    split = lambda x: x.reshape(DEVICES, -1, x.shape[-1])  # noqa: E731
    return step, copies(params), copies(tx.init(params)), lambda batch: tuple(map(split, batch))


def with_shard_map(tx, params):
    m, whole, split = mesh(AxisType.Auto), PartitionSpec(), PartitionSpec("data")
    gradient = jax.grad(lambda *a: jax.lax.pmean(loss(*a), "data"))
    step = jax.jit(
        jax.shard_map(
            one_step(tx, gradient), mesh=m, in_specs=(whole, whole, split, split), out_specs=whole
        )
    )
    place = lambda tree: jax.device_put(tree, NamedSharding(m, whole))  # noqa: E731
    return step, place(params), place(tx.init(params)), lambda batch: batch


def over_mesh(layout, kind, tx, params):
    m = mesh(kind)
    split = NamedSharding(m, PartitionSpec("data"))
    place = lambda x: spread_over(x, layout(m, x))  # noqa: E731
    state = optax.tree.map_params(
        tx, place, tx.init(params), transform_non_params=lambda x: spread_over(x, replicated(m, x))
    )
    params = jax.tree.map(place, params)
    shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    step = jax.jit(one_step(tx), out_shardings=shardings)
    return step, params, state, lambda batch: tuple(spread_over(x, split) for x in batch)


def spread_over(x, sharding):
    """A host value as one array over all processes."""
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


WAYS = {
    "single": on_one_device,
    "pmap": with_pmap,
    "shard_map": with_shard_map,
    "replicated": functools.partial(over_mesh, replicated, AxisType.Auto),
    "across": functools.partial(over_mesh, across_groups, AxisType.Auto),
    "along": functools.partial(over_mesh, along_groups, AxisType.Auto),
    "explicit": functools.partial(over_mesh, replicated, AxisType.Explicit),
}
DATA_PARALLEL = ("pmap", "shard_map", "replicated", "explicit")
SPREAD_OVER_PROCESSES = ("replicated", "across")


def collectives(compiled):
    """How often each collective stands in the optimized HLO, by kind and shape of a result."""
    found = re.findall(
        r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
        r"(?:-start)?\(",
        compiled.as_text(),
    )
    results = [
        (kind, shape) for shapes, kind in found for shape in re.findall(r"\w+\[.*?\]", shapes)
    ]
    return dict(collections.Counter(f"{kind} {shape}" for kind, shape in results))


def same_everywhere(tree):
    """Whether all copies of every replicated array are bit-identical."""
    return all(
        np.array_equal(shard.data, shards[0].data, equal_nan=True)
        for x in jax.tree.leaves(tree)
        if x.sharding.is_fully_replicated
        for shards in [x.addressable_shards]
        for shard in shards
    )


def first_copy(way, tree):
    if way == "pmap":
        for x in jax.tree.leaves(tree):
            assert np.all(np.asarray(x) == np.asarray(x)[:1]), "replicas differ"
        return jax.tree.map(lambda x: np.asarray(x[0]), tree)
    assert same_everywhere(tree), "replicas differ"
    whole = jax.jit(lambda x: x, out_shardings=None)
    return jax.tree.map(lambda x: np.asarray(gathered(whole, x)), tree)


def gathered(whole, x):
    if x.is_fully_addressable:
        return x
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)


def run(way, tx, params, directory, name):
    """Trains, writes the parameters, and returns the collectives of the step."""
    step, params, state, place = WAYS[way](tx, params)
    step = step.lower(params, state, *place(batch_of(0))).compile()
    for t in range(STEPS):
        # One step in flight: eight devices share a few threads, and waiting collectives hold them.
        params, state = jax.block_until_ready(step(params, state, *place(batch_of(t))))
    params = first_copy(way, params)
    if jax.process_index() == 0:
        flat = {"/".join(path): x for path, x in leaves_by_path(params).items()}
        np.savez(directory / f"{way}-{name}.npz", **flat)
    return collectives(step)


def main(directory, process=0, processes=1, port=0):
    jax.config.update("jax_enable_x64", True)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    assert len(jax.devices()) == DEVICES
    norms.LEAST_ENTRIES_IN_SLABS = parts.LEAST_ENTRIES = parts.LEAST_ENTRIES_TO_WAIT = 1
    params = initial_params()
    zigs = oto_jax.find_zigs(network, params, jnp.zeros((1, 8)))
    found = {}
    for name, tx in optimizers(zigs).items():
        ways = WAYS if processes == 1 else SPREAD_OVER_PROCESSES
        found[name] = {way: run(way, tx, params, directory, name) for way in ways}
    if processes == 1:
        sgd = optax.sgd(0.05, 0.9)
        found["sgd"] = {way: run(way, sgd, params, directory, "sgd") for way in DATA_PARALLEL}
        (directory / "collectives.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
