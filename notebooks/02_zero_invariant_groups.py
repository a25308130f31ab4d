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
# # Zero-invariant groups
#
# Which parts of a network may be cut out without changing what it computes? Not any: this notebook
# looks at what `find_zigs` finds in a convolution with BatchNorm, in a residual network and in
# attention, and at a gate where it refuses, rightly.
#
# A **zero-invariant group** (Chen et al., NeurIPS 2021, section 3.1) is a set of parameter entries
# such that, when all of them are zero, the structure that they produce contributes nothing to the
# output. It can then be removed, and the output stays the same.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import SVG, display

import oto_jax


def noisy(variables):
    """Variables as after training: every entry is random, also biases, means and variances."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        values = random.normal(size=leaf.shape).astype("float32")
        return jnp.asarray(0.5 + abs(values) if path[-1].key == "var" else values)

    return jax.tree.map_with_path(draw, variables)


def zeroed(variables, zigs, groups):
    """The variables with the given groups at zero."""
    gone = np.asarray(list(groups))
    params = jax.tree.map(
        lambda array, numbers: jnp.where(np.isin(numbers, gone), 0.0, array),
        variables["params"],
        zigs.masks,
    )
    return {**variables, "params": params}


# %% [markdown]
# ## A convolution with BatchNorm
#
# `find_zigs` traces the model on shapes alone, so it needs no weights, and takes no time.


# %%
class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(10)(x.mean((1, 2)))


image = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
conv_net = ConvNet()
shapes = jax.eval_shape(conv_net.init, jax.random.key(0), image)
conv_zigs = oto_jax.find_zigs(conv_net, shapes, image)
print(conv_zigs)

# %% [markdown]
# One space of 8 groups. Its **members** become zero: for channel `i` the filter's slice of the
# kernel, its bias, and the scale and the bias of BatchNorm. Its **dependents** are cut along with
# it but need not be zero: the running mean and variance, and the inputs of the next layer.

# %%
(space,) = conv_zigs.spaces
for member in space.members:
    print("becomes zero:", "/".join(member.path), "along axis", member.axis)
for member in space.dependents:
    print("is cut too:  ", "/".join(member.path), "along axis", member.axis)

# %% [markdown]
# Ask for any parameter what happens to it:

# %%
print(conv_zigs.explain("Conv_0/kernel"))
print(conv_zigs.explain("Dense_0/kernel"))

# %% [markdown]
# ### Why BatchNorm belongs to the group
#
# Put filter 5 alone to zero, and its channel is not zero: BatchNorm subtracts the running mean and
# adds its own bias. Put the whole group to zero, and the running statistics do not matter any
# more: they are multiplied by a scale of zero.

# %%
variables = noisy(shapes)
x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

kernel = variables["params"]["Conv_0"]["kernel"]
filter_only = {
    **variables["params"],
    "Conv_0": {
        "kernel": kernel.at[..., 5].set(0.0),
        "bias": variables["params"]["Conv_0"]["bias"].at[5].set(0.0),
    },
}
whole_group = zeroed(variables, conv_zigs, [5])


def channel(variables, number):
    """The largest activation of one channel after BatchNorm and relu."""
    _, seen = conv_net.apply(variables, x, capture_intermediates=True)
    normalised = seen["intermediates"]["BatchNorm_0"]["__call__"][0]
    return float(jnp.abs(nn.relu(normalised[..., number])).max())


print(f"channel 5, filter alone at zero: {channel({**variables, 'params': filter_only}, 5):.3f}")
print(f"channel 5, whole group at zero:  {channel(whole_group, 5):.3f}")

# %% [markdown]
# ### The cut is exact
#
# The narrower module has 7 filters and gives the same outputs, up to the order in which
# floating-point sums are taken.

# %%
slim = oto_jax.prune(conv_net, whole_group, conv_zigs)
print(slim)
print(oto_jax.certify((conv_net, whole_group), slim, x))

# %% [markdown]
# ## A residual network: channels that hang together
#
# What is added must have the same width. So channel `i` of *every* layer that writes into one
# residual stream forms one group. The picture shows spaces as boxes and layers as arrows; orange
# arrows add to a stream that was there before.


# %%
class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        for _ in range(2):
            y = nn.relu(nn.Conv(12, (3, 3), use_bias=False)(x))
            x = nn.relu(x + nn.Conv(16, (3, 3), use_bias=False)(y))
        return nn.Dense(10)(x.mean((1, 2)))


residual = Residual()
shapes = jax.eval_shape(residual.init, jax.random.key(0), image)
residual_zigs = oto_jax.find_zigs(residual, shapes, image)
print(residual_zigs)
display(SVG(residual_zigs.draw()))

# %% [markdown]
# The stream's space has three members, one for each convolution that writes into it. A filter of
# one of them can only go if its partners in the others go as well: that is why residual streams
# shrink less than the layers inside the blocks.
#
# ## Attention: by head, or by dimension
#
# A head can be cut whole: its slices of query, key, value (and of their biases). Or a dimension
# can be cut in all heads at once, in query and key together, or in value. The two overlap in the
# same entries, so one has to be chosen.


# %%
class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(24)(x)
        x = nn.MultiHeadDotProductAttention(4, qkv_features=32, name="mha")(x)
        return nn.Dense(3)(x)


tokens = jax.ShapeDtypeStruct((1, 6, 10), "float32")
attention = Attention()
shapes = jax.eval_shape(attention.init, jax.random.key(0), tokens)
for choice in ("heads", "head_dim"):
    found = oto_jax.find_zigs(attention, shapes, tokens, attention=choice)
    print(f"attention={choice!r}")
    for space in found.spaces:
        members = [f"{'/'.join(m.path[1:])}:{m.axis}" for m in space.members]
        print(f"  {space.name}: {space.size} groups in {', '.join(members)}")

# %% [markdown]
# Queries and keys meet in a product summed over the dimension, so a dimension that is zero in both
# adds nothing to any score. The softmax scale stays what it was: the rebuilt module divides by the
# square root of the *full* head dimension.
#
# ## A gate that is not zero-invariant
#
# A hidden unit behind a sigmoid is not silent when its parameters are zero: the sigmoid of zero is
# one half. Here `find_zigs` finds no group and says why.


# %%
class SigmoidNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.sigmoid(nn.Dense(16)(x))
        return nn.Dense(3)(hidden)


row = jax.ShapeDtypeStruct((1, 10), "float32")
sigmoid_net = SigmoidNet()
shapes = jax.eval_shape(sigmoid_net.init, jax.random.key(0), row)
sigmoid_zigs = oto_jax.find_zigs(sigmoid_net, shapes, row)
for blocked in sigmoid_zigs.blocked:
    print("/".join(blocked.path), "axis", blocked.axis, "-", blocked.reason)

# %% [markdown]
# It is right to refuse. Put unit 0 to zero and compare with a network from which it is cut away:

# %%
variables = noisy(shapes)
inputs = jax.random.normal(jax.random.key(1), (4, 10))
first, last = variables["params"]["Dense_0"], variables["params"]["Dense_1"]


def run(first, last):
    return nn.sigmoid(inputs @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]


at_zero = {"kernel": first["kernel"].at[:, 0].set(0.0), "bias": first["bias"].at[0].set(0.0)}
cut = {"kernel": first["kernel"][:, 1:], "bias": first["bias"][1:]}
without = {"kernel": last["kernel"][1:], "bias": last["bias"]}
difference = run(at_zero, last) - run(cut, without)
print("difference of the outputs:", np.asarray(difference[0]))
print("half of the row it reads: ", np.asarray(0.5 * last["kernel"][0]))

# %% [markdown]
# The difference is one half of the row that reads the unit. With `tanh`, `relu`, `gelu` or `silu`
# in the place of the sigmoid, zero stays zero:

# %%
for activation in (nn.tanh, nn.relu, nn.gelu, nn.silu, nn.sigmoid, nn.softplus):
    net = nn.Sequential([nn.Dense(16), activation, nn.Dense(3)])
    shapes = jax.eval_shape(net.init, jax.random.key(0), row)
    print(f"{activation.__name__:10} {oto_jax.find_zigs(net, shapes, row).num_groups} groups")

# %% [markdown]
# A gate that *multiplies* is another matter. In a squeeze-and-excitation block a sigmoid scales
# each channel: where the channel is zero, half of zero is zero, and the channel can be cut with
# the gate that belongs to it.


# %%
class Gated(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        gate = nn.relu(nn.Dense(4)(x.mean((1, 2))))
        x = x * nn.sigmoid(nn.Dense(16)(gate))[:, None, None, :]
        return nn.Dense(10)(x.mean((1, 2)))


gated = Gated()
shapes = jax.eval_shape(gated.init, jax.random.key(0), image)
gated_zigs = oto_jax.find_zigs(gated, shapes, image)
print(gated_zigs)
variables = noisy(shapes)
gone = zeroed(variables, gated_zigs, [0, 3, gated_zigs.num_groups - 1])
slim = oto_jax.prune(gated, gone, gated_zigs)
print(oto_jax.certify((gated, gone), slim, x))

# %% [markdown]
# ## Statistics over the channels
#
# LayerNorm divides by a mean over all channels. A narrower LayerNorm would take that mean over
# fewer of them, so `prune`, which builds a narrower module, must leave the axis alone. `narrow`
# keeps the program and with it the old divisor; there the zeros are neutral and the cut is exact.
# Such groups are found with `narrow_only=True`.

# %%
normed = nn.Sequential([nn.Dense(16), nn.LayerNorm(use_bias=False), nn.Dense(3)])
variables = normed.init(jax.random.key(0), inputs)
print("for prune: ", oto_jax.find_zigs(normed, variables, inputs).num_groups, "groups")
normed_zigs = oto_jax.find_zigs(normed, variables, inputs, narrow_only=True)
print("for narrow:", normed_zigs.num_groups, "groups")

gone = zeroed(variables, normed_zigs, range(6))
narrow_fn, narrow_variables = oto_jax.narrow(normed.apply, gone, normed_zigs)
print(jax.tree.map(jnp.shape, narrow_variables["params"]["layers_0"]))
print(oto_jax.certify((normed, gone), (narrow_fn, narrow_variables), inputs))
