# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own model
#
# Bring a Linen module, an NNX module or a bare JAX function. Train it on one device or on many.
# And when something is blocked, find out why and what to do.
#
# About a minute on two CPU cores.

# %%
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import oto_jax
from oto_jax import plot

REDUCED = "OTO_JAX_NOTEBOOK_REDUCED" in os.environ  # the tests run a short version
STEPS = 20 if REDUCED else 300
jax.config.update("jax_num_cpu_devices", 4)  # on a CPU: four devices, to try sharding on

digits = load_digits()
images, labels = digits.data.astype("float32") / 16, digits.target
train_x, train_y, test_x, test_y = images[:1280], labels[:1280], images[1280:], labels[1280:]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def optimizer(zigs, target=0.8):
    """Four fifths of all groups shall go."""
    return oto_jax.hspg(
        0.1,
        zigs,
        momentum=0.9,
        target_group_sparsity=target,
        start_step=STEPS // 4,
        target_steps=STEPS // 2,
    )


# %% [markdown]
# The same three steps each time: **find** the groups, **train** with an optimizer that knows them,
# **cut**.
#
# ## Flax Linen

# %%
linen = nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(64), nn.relu, nn.Dense(10)])
variables = linen.init(jax.random.key(0), train_x[:1])
zigs = oto_jax.find_zigs(linen, variables, train_x[:1])
tx = optimizer(zigs)


@jax.jit
def linen_step(params, state):
    def loss(params):
        return cross_entropy(linen.apply({"params": params}, train_x), train_y)

    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


params, state = variables["params"], tx.init(variables["params"])
for _ in range(STEPS):
    params, state = linen_step(params, state)
on_one = params  # to compare with below

slim = oto_jax.prune(linen, {"params": params}, zigs)
print(slim)
print(oto_jax.certify((linen, {"params": params}), slim, test_x))
print(f"right: {(slim.model.apply(slim.variables, test_x).argmax(-1) == test_y).mean():.1%}")

# %% [markdown]
# ## Flax NNX
#
# An NNX module holds its parameters, so it is given alone. `prune` returns a copy.


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, rngs=rngs)
        self.last = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


net = Net(nnx.Rngs(0))
net.eval()
zigs = oto_jax.find_zigs(net, train_x[:1])
net.train()
trainer = nnx.Optimizer(net, optimizer(zigs), wrt=nnx.Param)


@nnx.jit
def nnx_step(net, trainer):
    gradients = nnx.grad(lambda net: cross_entropy(net(train_x), train_y))(net)
    trainer.update(net, gradients)


for _ in range(STEPS):
    nnx_step(net, trainer)

net.eval()
slim = oto_jax.prune(net, zigs)
print(slim.plan)
print(oto_jax.certify(net, slim, test_x))
print(f"right: {(slim.model(test_x).argmax(-1) == test_y).mean():.1%}")

# %% [markdown]
# ## A bare function
#
# Any function of a pytree of parameters will do. `narrow` gives the function at the surviving
# widths: the same program, so it works under `jit`, `grad` and `vmap`, at any batch size.


# %%
def network(params, x):
    """A gated layer, as in many language models."""
    gate = jax.nn.silu(x @ params["gate"])
    return (gate * (x @ params["up"])) @ params["down"]


keys = jax.random.split(jax.random.key(0), 3)
shapes = {"gate": (64, 96), "up": (64, 96), "down": (96, 10)}
params = {
    name: 0.1 * jax.random.normal(key, shape)
    for key, (name, shape) in zip(keys, shapes.items(), strict=True)
}
zigs = oto_jax.find_zigs(network, params, train_x[:1])
print(zigs)
tx = optimizer(zigs)


@jax.jit
def function_step(params, state):
    loss = lambda params: cross_entropy(network(params, train_x), train_y)  # noqa: E731
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


state = tx.init(params)
for _ in range(STEPS):
    params, state = function_step(params, state)

slim_network, slim_params = oto_jax.narrow(network, params, zigs)
print({name: array.shape for name, array in slim_params.items()})
print(oto_jax.certify((network, params), (slim_network, slim_params), test_x))

# %% [markdown]
# ## Many devices
#
# The optimizer is a pure function on arrays, so sharding is JAX's business as always: put the
# arrays where you want them, `jit` does the rest. Here the batch lies on four devices, and the
# first layer's units on two of them. It makes the same decisions as on one device.

# %%
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
place = lambda *names: jax.NamedSharding(mesh, jax.P(*names))  # noqa: E731

zigs = oto_jax.find_zigs(linen, variables, train_x[:1])
tx = optimizer(zigs)
batch = jax.device_put((train_x, train_y), place("data"))


@jax.jit
def step(params, state, x, y):
    loss = lambda params: cross_entropy(linen.apply({"params": params}, x), y)  # noqa: E731
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


def train(params, x, y):
    state, history = tx.init(params), []
    for number in range(STEPS):
        params, state = step(params, state, x, y)
        jax.block_until_ready(params)  # devices that share a CPU wait for each other's threads
        if number % 10 == 9:
            history.append(oto_jax.group_sparsity(params, zigs))
    return params, history


sharded = dict(jax.device_put(variables["params"], place()))
sharded["layers_0"] = {
    "kernel": jax.device_put(sharded["layers_0"]["kernel"], place(None, "model")),
    "bias": jax.device_put(sharded["layers_0"]["bias"], place("model")),
}
on_four, history = train(sharded, *batch)
layout = on_four["layers_0"]["kernel"].sharding.spec
print(f"{len(jax.devices())} devices; the first kernel lies as {layout}")
zero = [plot.measure_norms(params, zigs) == 0 for params in (on_four, on_one)]
print(f"{zero[0].sum()} groups are zero on four devices, {zero[1].sum()} on one,")
print(f"{(zero[0] == zero[1]).mean():.1%} of the decisions are the same")
ax = plot.sparsity(range(10, STEPS + 1, 10), history)

# %% [markdown]
# Sums over four devices are taken in another order than on one, so decisions between groups of
# almost equal saliency may differ. Run twice on the same devices, and everything is the same to
# the last bit.
#
# ## When something is blocked
#
# Nothing is skipped silently: every axis of every parameter is in a space or in `zigs.blocked`,
# with the reason and the line of your model. `zigs.explain(path)` tells it for one parameter. Here
# is a model with three obstacles.


# %%
class Stubborn(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.sigmoid(nn.Dense(32, name="squashed")(x))
        x = nn.relu(nn.Dense(48, name="sorted")(x))
        x = jnp.sort(x, axis=-1)
        x = nn.Dense(24, name="normed")(x)
        x = nn.LayerNorm(use_bias=False)(x)
        return nn.Dense(10, name="head")(x)


stubborn = Stubborn()
variables = stubborn.init(jax.random.key(0), train_x[:1])
zigs = oto_jax.find_zigs(stubborn, variables, train_x[:1])
for layer in ("squashed", "sorted", "normed"):
    print(zigs.explain(f"{layer}/kernel").splitlines()[-1])

# %% [markdown]
# What to do, case by case:
#
# - *A sigmoid makes a zeroed unit one half.* Use an activation with $\varphi(0) = 0$: relu, gelu,
#   silu, tanh.
# - *Sorting mixes units by value.* Units lose their identity; so the layer before stays as it is.
#   If it is a mistake (a sort along the wrong axis), the line of the model leads there.
# - *LayerNorm takes a mean over the axis.* Ask for `narrow_only=True` and cut with `narrow`.

# %%
narrowable = oto_jax.find_zigs(stubborn, variables, train_x[:1], narrow_only=True)
print("with narrow_only:", [(space.name, space.size) for space in narrowable.spaces])


class Willing(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(32, name="squashed")(x))
        x = nn.relu(nn.Dense(48, name="sorted")(x))
        x = nn.Dense(24, name="normed")(x)
        x = nn.LayerNorm(use_bias=False)(x)
        return nn.Dense(10, name="head")(x)


willing = Willing()
variables = willing.init(jax.random.key(0), train_x[:1])
found = oto_jax.find_zigs(willing, variables, train_x[:1], narrow_only=True)
print("reworked:        ", [(space.name, space.size) for space in found.spaces])

# %% [markdown]
# The other way round, keep what you do not want touched with `unprunable`:

# %%
kept = oto_jax.find_zigs(willing, variables, train_x[:1], unprunable=["squashed/*"])
print([(space.name, space.size) for space in kept.spaces])
print(kept.explain("squashed/kernel").splitlines()[-1])

# %% [markdown]
# ## The most common mistake
#
# Whatever changes updates *after* the projection brings the zeros back to life: weight decay, a
# learning rate, an average of the weights. `check_zeros` says so, and which groups.

# %%
zigs = oto_jax.find_zigs(linen, linen.init(jax.random.key(0), train_x[:1]), train_x[:1])
params = linen.init(jax.random.key(0), train_x[:1])["params"]
wrong = optax.chain(oto_jax.hspg(0.1, zigs, lmbda=1.0, epsilon=0.99), optax.ema(0.9, debias=False))
state = wrong.init(params)
gradients = jax.tree.map(jnp.zeros_like, params)
updates, state = wrong.update(gradients, state, params)
moved = optax.apply_updates(params, updates)
try:
    oto_jax.check_zeros(moved, zigs, state)
except oto_jax.RevivedGroupsError as error:
    print(str(error)[:300], "...")
