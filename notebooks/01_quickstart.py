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
# # Quick start: from nothing to a slim model
#
# We train a small convolutional network **once**, on real handwritten digits. While it trains,
# whole filters and hidden units become exactly zero. We cut them out and get a narrower network
# that computes the same outputs. Nothing is fine-tuned, and no mask stays behind.
#
# About a minute on two CPU cores.

# %%
import os
import tempfile

import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import oto_jax
from oto_jax import plot

REDUCED = "OTO_JAX_NOTEBOOK_REDUCED" in os.environ  # the tests run a short version
EPOCHS = 2 if REDUCED else 60

# %% [markdown]
# ## The data: 1,797 digits of 8 x 8 pixels
#
# They come with scikit-learn (the test part of UCI's *Optical Recognition of Handwritten Digits*).
# 1,257 are for training, 540 for testing.

# %%
digits = load_digits()
images = (digits.images[..., None] / 16).astype("float32")
train_x, test_x, train_y, test_y = train_test_split(
    images, digits.target, test_size=540, stratify=digits.target, random_state=0
)

figure, axes = plt.subplots(1, 10, figsize=(8, 1))
for ax, image, label in zip(axes, train_x, train_y, strict=False):
    ax.imshow(image[..., 0], cmap="gray_r")
    ax.set_title(label, fontsize="small")
    ax.axis("off")

# %% [markdown]
# ## The model: plain Flax
#
# Nothing in it knows of pruning.


# %%
class Net(nn.Module):
    """Three convolutions with BatchNorm, and a hidden dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        for features, stride in ((32, 1), (64, 2), (64, 2)):
            x = nn.Conv(features, (3, 3), strides=stride, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.relu(nn.Dense(128)(x.mean((1, 2))))
        return nn.Dense(10)(x)


model = Net()
variables = jax.jit(model.init)(jax.random.key(0), train_x[:1])
zigs = oto_jax.find_zigs(model, variables, train_x[:1])
print(zigs)

# %% [markdown]
# `find_zigs` read the program of the model, not the names of its layers. Each line is a *space*:
# axes that have to be cut together. Each unit of a space is one *zero-invariant group*: if all its
# entries are zero, it contributes nothing to the output. What cannot be cut stands below, with the
# reason.
#
# ## Training, once
#
# `oto_jax.hspg` is an optax optimizer like any other. In stage 1 it is gradient descent with a
# group lasso, which pulls the norm of every group down. From `start_step` on, stage 2, a group
# whose next step would lead out of its half-space becomes **exactly** zero, and stays it.

# %%
BATCH = 64
steps_per_epoch = len(train_x) // BATCH
switch = EPOCHS // 2
schedule = optax.cosine_decay_schedule(0.1, EPOCHS * steps_per_epoch)
tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    oto_jax.hspg(
        schedule,
        zigs,
        lmbda=7e-3,
        epsilon=0.95,
        momentum=0.9,
        start_step=switch * steps_per_epoch,
    ),
)


def loss_of(params, statistics, x, y):
    logits, updated = model.apply(
        {"params": params, "batch_stats": statistics}, x, train=True, mutable="batch_stats"
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), updated["batch_stats"]


@jax.jit
def step(params, statistics, state, x, y):
    gradients, statistics = jax.grad(loss_of, has_aux=True)(params, statistics, x, y)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), statistics, state


@jax.jit
def accuracy(variables, x, y):
    return (model.apply(variables, x).argmax(-1) == y).mean()


# %%
measure = jax.jit(lambda params: oto_jax.group_sparsity(params, zigs))
params, statistics = variables["params"], variables["batch_stats"]
state = tx.init(params)
history, norms = [measure(params)], [plot.measure_norms(params, zigs)]
shuffled = np.random.default_rng(0)
for _ in range(EPOCHS):
    order = shuffled.permutation(len(train_x))[: steps_per_epoch * BATCH].reshape(-1, BATCH)
    for chosen in order:
        params, statistics, state = step(
            params, statistics, state, train_x[chosen], train_y[chosen]
        )
    history.append(measure(params))
    norms.append(plot.measure_norms(params, zigs))

trained = {"params": params, "batch_stats": statistics}
print(f"test accuracy {accuracy(trained, test_x, test_y):.2%}")
print(f"zero groups   {history[-1].overall:.1%}")

# %% [markdown]
# ## What happened to the groups
#
# Each row of pixels is one group, bright where its norm is large. In stage 1 most fade; in stage 2
# those that have faded become exactly zero (white) within a few steps.

# %%
epochs = list(range(EPOCHS + 1))
ax = plot.norm_map(epochs, norms, zigs, stage_switch=switch, unit="epoch")

# %%
ax = plot.sparsity(epochs, history, stage_switch=switch, unit="epoch")

# %% [markdown]
# At the end the two kinds stand far apart: on the left those that are zero, bit for bit; on the
# right those that carry the network.

# %%
ax = plot.histogram(params, zigs)

# %% [markdown]
# ## Cut
#
# `prune` builds the narrower module. It is an ordinary Flax module.

# %%
slim = oto_jax.prune(model, trained, zigs)
ax = plot.widths(slim)

# %%
certificate = oto_jax.certify((model, trained), slim, test_x, repeats=3 if REDUCED else 20)
print(certificate)
ax = plot.costs(certificate)

# %% [markdown]
# The first line is the point of it all: the outputs differ by rounding only, so the accuracy is
# the same, whatever it is. Fewer multiply-accumulates are not as much less time on every machine;
# both are measured.

# %%
slim_accuracy = (slim.model.apply(slim.variables, test_x).argmax(-1) == test_y).mean()
print(f"full {accuracy(trained, test_x, test_y):.2%}, slim {slim_accuracy:.2%}")

# %% [markdown]
# ## Save and load
#
# The plan of the cut is JSON, the arrays go through Orbax.

# %%
with tempfile.TemporaryDirectory() as folder:
    oto_jax.save(f"{folder}/slim", slim)
    again = oto_jax.load(f"{folder}/slim", model)
print(oto_jax.certify(slim, again, test_x).absolute, "is the difference after loading")
