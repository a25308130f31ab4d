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
# # Exploring sparsity in a real ResNet
#
# A ResNet-20 that somebody else trained on CIFAR-10, with 91.7 % of the test images right. Which
# of its channels are redundant? We look layer by layer, prune to several targets in a few dozen
# steps each, and look at the filters that die.
#
# **Data.** The notebook reads CIFAR-10 and the published weights from `../../shared/data` or from
# the folder named in the variable `OTO_JAX_DATA`. The weights are `resnet20-12fca82f.th` of
# github.com/akamaster/pytorch_resnet_cifar10, written with `numpy.savez` to
# `resnet_cifar10/resnet20-12fca82f.npz`; for CIFAR-10 the loader takes the official archive, and
# says where it looked if there is none.
#
# About three minutes on two CPU cores.

# %%
import functools
import os
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

sys.path.insert(0, "..")  # for the loaders of the experiments

import oto_jax
from experiments.data import cifar10
from experiments.data.augmentation import crop_and_flip, normalise
from experiments.data.folders import data_folder
from oto_jax import plot
from oto_jax.models.checkpoints import load_cifar_resnet

REDUCED = "OTO_JAX_NOTEBOOK_REDUCED" in os.environ  # the tests run a short version
KEPT, CUT = "#0072B2", "#D55E00"

model, variables = load_cifar_resnet(data_folder() / "resnet_cifar10" / "resnet20-12fca82f.npz")
test = cifar10.load("test").first(100 if REDUCED else 1000)
# The short version must not wait for 50,000 images to be read; what it computes means nothing.
train = test if REDUCED else cifar10.load("train")
print(f"{len(train)} images to train on, {len(test)} to test on")


@functools.partial(jax.jit, static_argnums=0)
def right(model, variables, images, labels):
    logits = model.apply(variables, normalise(images))
    return jnp.sum(logits.argmax(-1) == labels)


def accuracy(model, variables, data, size=100 if REDUCED else 500):
    """The share of images that are classified rightly."""
    parts = range(0, len(data), size)
    found = (
        right(model, variables, data.images[i : i + size], data.labels[i : i + size]) for i in parts
    )
    return sum(map(int, found)) / len(data)


variables = jax.tree.map(jnp.asarray, variables)
dense_accuracy = accuracy(model, variables, test)
print(f"as published: {dense_accuracy:.2%}")

# %% [markdown]
# ## What can be cut
#
# The shortcuts of this network take every other pixel and pad channels with zeros. `find_zigs`
# follows that: the channels of the first stage run on in the middle of the second stage's stream,
# so stage 2's own space consists of the padded ones only.

# %%
image = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
zigs = oto_jax.find_zigs(model, variables, image)
print(zigs)

# %% [markdown]
# ## How large the groups are
#
# Nobody trained this network to be sparse, and no group is exactly zero. But a few stand far apart
# at the left: filters that weight decay has brought down to almost nothing.

# %%
ax = plot.histogram(variables["params"], zigs)


# %%
def without(groups):
    """The variables with the given groups at zero."""
    params = jax.tree.map(
        lambda array, numbers: jnp.where(np.isin(numbers, groups), 0.0, array),
        variables["params"],
        zigs.masks,
    )
    return {**variables, "params": params}


norms = plot.measure_norms(variables["params"], zigs)
tiny = np.flatnonzero(norms < 0.1)
print(f"{len(tiny)} of {zigs.num_groups} groups have a norm below 0.1")
print(f"with these at zero {accuracy(model, without(tiny), test):.2%} are right")

# %% [markdown]
# These can be cut at once. For the rest, the norm says little about what is redundant.
#
# ## Which layers have channels to spare
#
# The first-order Taylor saliency of a group, $|\langle \nabla f_g, x_g \rangle|$, estimates how
# much the loss changes without it (Molchanov et al., ICLR 2017). We put the less salient **half of
# one space** to zero, leave all others as they are, and see how many of 500 training images are
# still classified rightly.

# %%
PROBE = 50 if REDUCED else 500
probe = train.first(PROBE)


@jax.jit
def gradient(params, images, labels):
    def loss(params):
        logits = model.apply({**variables, "params": params}, normalise(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.grad(loss)(params)


def per_group(left, right):
    """Inner product of every group's entries in two trees."""
    found = np.zeros(1 + zigs.num_groups)  # first the entries in no group: number -1
    for a, b, numbers in zip(*map(jax.tree.leaves, (left, right, zigs.masks)), strict=True):
        slots = 1 + np.broadcast_to(numbers, a.shape).ravel()
        found += np.bincount(slots, np.asarray(a * b).ravel(), minlength=len(found))
    return found[1:]


params = variables["params"]
saliency = np.abs(per_group(gradient(params, probe.images, probe.labels), params))
spaces = zigs.spaces[:2] if REDUCED else zigs.spaces
left = {}
for space in spaces:
    order = np.argsort(saliency[space.start : space.start + space.size])
    half = space.start + order[: space.size // 2]
    left[f"{space.name} ({space.size})"] = 100 * accuracy(model, without(half), probe, PROBE)
before = 100 * accuracy(model, variables, probe, PROBE)

figure, ax = plt.subplots(figsize=(8, 0.3 * len(left) + 1), layout="constrained")
bars = ax.barh(list(left), list(left.values()), color=KEPT)
ax.bar_label(bars, fmt=" %.0f", fontsize="small")
ax.axvline(before, color="black", linestyle="--", linewidth=1)
ax.invert_yaxis()
ax.set(xlim=(0, 108), xlabel="right with half of this space at zero (%)")
ax.set_title("Half of one space at zero (dashed: nothing at zero)")
print(f"nothing at zero: {before:.1f} %")

# %% [markdown]
# Most layers *inside* the blocks lose half of their channels at the price of a few images. The
# first one of stage 2, where height and width are halved, has the least to spare. The stream of
# stage 1 (`stem_conv`) is another matter: each of its channels is written by all blocks of its
# stage and read by every layer after them.
#
# ## Prune to several targets
#
# Now by training: HSPG in target mode, asked for the share of parameters that shall be left. A few
# dozen steps each, from the published weights; a real run would take epochs, not steps.

# %%
STEPS, WINDOW, BATCH = (4, 2, 10) if REDUCED else (60, 36, 64)
TARGETS = (0.5,) if REDUCED else (0.75, 0.5, 0.25)


def prune_to(kept):
    """Trains from the published weights until that share of the parameters is left."""
    schedule = optax.cosine_decay_schedule(0.02, STEPS)
    target = oto_jax.Target(kept=kept)
    tx = oto_jax.hspg(
        schedule, zigs, lmbda=1e-4, momentum=0.9, target_group_sparsity=target, target_steps=WINDOW
    )

    def loss(params, statistics, images, labels):
        logits, updated = model.apply(
            {"params": params, "batch_stats": statistics}, images, train=True, mutable="batch_stats"
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated["batch_stats"]

    @jax.jit
    def step(params, statistics, state, images, labels, number):
        positions = number * BATCH + jnp.arange(BATCH)
        images = normalise(crop_and_flip(images, positions, 0))
        gradients, statistics = jax.grad(loss, has_aux=True)(params, statistics, images, labels)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), statistics, state

    params, statistics = variables["params"], variables["batch_stats"]
    state, norms = tx.init(params), [plot.measure_norms(params, zigs)]
    order = np.random.default_rng(0).permutation(len(train))
    for number in range(STEPS):
        chosen = order[number * BATCH : (number + 1) * BATCH]
        batch = train.images[chosen], train.labels[chosen]
        params, statistics, state = step(params, statistics, state, *batch, number)
        if number % 2:
            norms.append(plot.measure_norms(params, zigs))
    trained = {"params": params, "batch_stats": statistics}
    return oto_jax.prune(model, trained, zigs), trained, norms


results, rows = {}, []
for kept in TARGETS:
    slim, trained, norms = prune_to(kept)
    inputs = normalise(jnp.asarray(test.images[:8]))
    certificate = oto_jax.certify((model, trained), slim, inputs)
    score = accuracy(slim.model, slim.variables, test)
    share = certificate.slim.macs / certificate.full.macs
    parameters = certificate.slim.parameters / certificate.full.parameters
    results[kept] = slim, trained, norms
    rows.append((100 * share, 100 * score))
    print(
        f"asked for {kept:.0%} of the parameters, got {parameters:.1%}, {share:.1%} of the MACs:"
        f" {score:.2%} right, outputs differ by {certificate.relative:.0e}"
    )

ax = plot.trade_off(rows, dense=(100, 100 * dense_accuracy))

# %% [markdown]
# The targets are met to the nearest group, and each slim network computes what its masked one
# does. The accuracy is what 60 steps leave: they see 3,840 images, a thirteenth of an epoch. It is
# no result of the method, which trains for epochs (`experiments/resnet_cifar10.py`), but shows
# where the curve bends.
#
# ## One of them in detail
#
# While it is pruned to the smallest target: groups that are chosen fade, then become zero.

# %%
slim, trained, norms = results[TARGETS[-1]]
ax = plot.norm_map(range(0, STEPS + 1, 2), norms, zigs)

# %%
ax = plot.widths(slim)

# %%
ax = plot.units(slim, title="Channels kept, space by space")

# %% [markdown]
# ## The filters that die
#
# The first convolution looks at the image itself, so its filters can be seen: 16 of them, 3 x 3
# pixels of three colours. Below each stands what it makes of one test image, in the published
# network. Framed in orange: cut in the smallest network.

# %%
stem = np.asarray(variables["params"]["stem_conv"]["kernel"])
stream = next(s for s in zigs.spaces if any("stem_conv" in m.path for m in s.members))
alive = plot.measure_norms(trained["params"], zigs)[stream.start : stream.start + stream.size] > 0
picture = normalise(jnp.asarray(test.images[7:8]))
see = jax.jit(functools.partial(model.apply, capture_intermediates=True))
_, seen = see(variables, picture)
maps = np.maximum(np.asarray(seen["intermediates"]["stem_bn"]["__call__"][0][0]), 0)

figure, axes = plt.subplots(4, 8, figsize=(8, 4.4), layout="constrained")
for channel in range(16):
    upper = axes[2 * (channel // 8), channel % 8]
    lower = axes[2 * (channel // 8) + 1, channel % 8]
    weights = stem[..., channel]
    upper.imshow(0.5 + 0.5 * weights / np.abs(weights).max())
    lower.imshow(maps[..., channel], cmap="gray")
    upper.set_title(f"{channel}", fontsize="small", color="black" if alive[channel] else CUT)
    for ax in (upper, lower):
        ax.set(xticks=[], yticks=[])
        for side in ax.spines.values():
            side.set(color=KEPT if alive[channel] else CUT, linewidth=1 if alive[channel] else 3)
print(f"{int((~alive).sum())} of 16 channels of the first stream are cut")
