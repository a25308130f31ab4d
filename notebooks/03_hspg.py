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
# # HSPG: how groups become exactly zero
#
# HSPG, the *half-space stochastic projected gradient* method (Chen et al., NeurIPS 2021, algorithm
# 2), minimises a loss with a group lasso,
#
# $$\psi(x) = f(x) + \lambda \sum_g \|x_g\|_2 .$$
#
# A group that the loss does not need is pulled towards zero. But gradient steps do not *land* on
# zero, above all not noisy ones. This notebook draws, in two dimensions, what HSPG does about it,
# and then tries its settings on a small real network.

# %%
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.patches import Circle, Polygon
from sklearn.datasets import load_digits

import oto_jax
from oto_jax import plot

REDUCED = "OTO_JAX_NOTEBOOK_REDUCED" in os.environ  # the tests run a short version
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"

# %% [markdown]
# ## The half-space
#
# Take one group of two entries, $x_g$. Stage 1 takes sub-gradient steps on $\psi$. In stage 2 the
# same step only gives a *trial* $\tilde x_g$. If the trial leaves the half-space
#
# $$S = \{z : \langle z, x_g \rangle \ge \epsilon \|x_g\|^2\},$$
#
# then $\tilde x_g$ no longer points where $x_g$ pointed, and the group becomes exactly zero. With
# $\epsilon = 0$ the border runs through the origin; the nearer $\epsilon$ is to 1, the nearer it
# comes to $x_g$, and the more trials lie beyond it.
#
# A proximal step, the usual answer to a group lasso, is zero only where the gradient step ends in
# a ball of radius $\alpha\lambda$ around the origin. That ball is tiny.

# %%
alpha, lmbda = 0.1, 0.5
x = np.array([1.0, 0.6])
trial = np.array([0.28, -0.25])


def draw_half_space(ax, epsilon):
    """What becomes zero: beyond the border, and, for a proximal step, within the ball."""
    normal = x / np.linalg.norm(x)
    along = np.array([-normal[1], normal[0]])
    foot = epsilon * x
    corners = [foot - 4 * along, foot + 4 * along, foot + 4 * along - 8 * normal]
    corners.append(foot - 4 * along - 8 * normal)
    ax.add_patch(Polygon(corners, color=VERMILION, alpha=0.15, linewidth=0))
    ax.plot(*zip(foot - 4 * along, foot + 4 * along, strict=True), color=VERMILION, linewidth=1)
    ax.add_patch(Circle((0, 0), alpha * lmbda, color=GREEN, alpha=0.6))
    inside = trial @ x >= epsilon * x @ x
    ax.annotate("", trial, x, arrowprops={"arrowstyle": "->", "color": "black"})
    ax.plot(*x, "o", color=BLUE)
    ax.annotate("$x_g$", x, xytext=(5, 5), textcoords="offset points")
    ax.annotate(r"$\tilde{x}_g$", trial, xytext=(5, -12), textcoords="offset points")
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    outcome = "stays the trial" if inside else "becomes zero"
    ax.set(xlim=(-0.7, 1.4), ylim=(-0.7, 1.1), aspect="equal")
    ax.set_title(rf"$\epsilon = {epsilon}$: {outcome}")


figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for ax, epsilon in zip(axes, (0.0, 0.3, 0.9), strict=True):
    draw_half_space(ax, epsilon)

# %% [markdown]
# Shaded: trials that become zero under HSPG. Green, the small disc at the origin: what a proximal
# step would put to zero. The same trial (the arrow's end) survives with $\epsilon = 0$ and dies
# with 0.3.
#
# ## Three methods on the same noise
#
# Now the real optimizer, `oto_jax.hspg`, on 300 groups of two entries at once. Every group sees
# the same quadratic loss, whose minimum lies close to the origin: so close that with the group
# lasso, the best value is exactly zero. Gradients carry noise, as those of mini-batches do. The
# groups start all over the plane.

# %%
GROUPS, STEPS, SWITCH = 300, 200, 60
alpha, lmbda, noise = 0.05, 0.4, 0.8
curvature, minimum = jnp.array([[1.0], [0.4]]), jnp.array([[0.15], [0.25]])


def network(params, inputs):
    """Two inputs, one hidden unit per group: unit i reads the two entries of group i."""
    return jnp.maximum(inputs @ params["points"], 0) @ params["out"]


start = jax.random.uniform(jax.random.key(0), (2, GROUPS), minval=-1.2, maxval=1.2)
params = {"points": start, "out": jnp.ones((GROUPS, 1))}
zigs = oto_jax.find_zigs(network, params, jnp.ones((1, 2)))


def gradient(points, key):
    exact = curvature * (points - minimum)
    return exact + noise * jax.random.normal(key, points.shape)


def sub_gradient(points, key, number):
    length = jnp.linalg.norm(points, axis=0, keepdims=True)
    return points - alpha * (gradient(points, key) + lmbda * points / (length + 1e-6))


def proximal(points, key, number):
    moved = points - alpha * gradient(points, key)
    length = jnp.linalg.norm(moved, axis=0, keepdims=True)
    return moved * jnp.maximum(0, 1 - alpha * lmbda / (length + 1e-12))


tx = oto_jax.hspg(alpha, zigs, lmbda=lmbda, start_step=SWITCH)


def trajectory(step):
    """Points after each step, of shape (steps + 1, 2, groups)."""
    points, found = start, [start]
    for number in range(STEPS):
        points = step(points, jax.random.key(number + 1), number)
        found.append(points)
    return np.array(found)


@jax.jit
def hspg_step(points, key, state):
    params = {"points": points, "out": jnp.ones((GROUPS, 1))}
    gradients = {"points": gradient(points, key), "out": jnp.zeros((GROUPS, 1))}
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates)["points"], state


state = tx.init(params)


def hspg(points, key, number):
    global state
    points, state = hspg_step(points, key, state)
    return points


paths = {
    "sub-gradient": trajectory(jax.jit(sub_gradient)),
    "proximal": trajectory(jax.jit(proximal)),
    "HSPG": trajectory(hspg),
}

# %% [markdown]
# Six of the groups, and at the right the share of all 300 that are exactly zero at each step.

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
grid = np.stack(np.meshgrid(np.linspace(-1.3, 1.3, 60), np.linspace(-1.3, 1.3, 60)))
offset = grid.reshape(2, -1) - np.asarray(minimum)
psi = 0.5 * (np.asarray(curvature) * offset**2).sum(0)
psi += lmbda * np.linalg.norm(grid.reshape(2, -1), axis=0)
for ax, (name, path) in zip(axes, paths.items(), strict=False):
    ax.contour(*grid, psi.reshape(60, 60), levels=8, colors="0.8", linewidths=0.7)
    for group in range(6):
        ax.plot(*path[:, :, group].T, color=BLUE, linewidth=0.8, alpha=0.8)
        zero = (path[-1, :, group] == 0).all()
        ax.plot(*path[-1, :, group], "x" if zero else "o", color=VERMILION if zero else BLUE)
    ax.set(title=name, xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
shares = {name: (path == 0).all(1).mean(1) for name, path in paths.items()}
for (name, share), style in zip(shares.items(), (":", "--", "-"), strict=True):
    axes[3].plot(100 * share, style, color="black", label=name)
axes[3].axvline(SWITCH, color=VERMILION, linewidth=1)
axes[3].set(title="exactly zero (%)", xlabel="step", ylim=(-3, 103))
axes[3].legend(fontsize="small")
for name, share in shares.items():
    print(f"{name:12} {share[-1]:6.1%} of the groups are zero after {STEPS} steps")

# %% [markdown]
# The sub-gradient method wanders around zero for ever. The proximal step visits zero and is thrown
# out by the next noisy gradient. HSPG waits in stage 1 (the line marks the switch), then a group
# that crosses its border becomes zero and *stays* zero.
#
# ## The settings, on real digits
#
# A dense network with two hidden layers of 128 units and scikit-learn's 1,797 handwritten digits:
# 1,400 to train on, in mini-batches of 64, and 397 to test on. Groups are hidden units.

# %%
digits = load_digits()
images, labels = jnp.asarray(digits.data, jnp.float32) / 16, jnp.asarray(digits.target)
model = nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(128), nn.relu, nn.Dense(10)])
initial = model.init(jax.random.key(0), images[:1])["params"]
zigs = oto_jax.find_zigs(model, {"params": initial}, images[:1])
TRAINED, BATCH = 1400, 64
PER_EPOCH = TRAINED // BATCH
EPOCHS = 4 if REDUCED else 40


def loss(params, chosen):
    logits = model.apply({"params": params}, images[chosen])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()


def train(**settings):
    """Trains with HSPG: the share of zero units after each epoch, and the accuracy at the end."""
    tx = oto_jax.hspg(0.3, zigs, **settings)

    def step(carry, chosen):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, chosen), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def epoch(params, state, key):
        order = jax.random.permutation(key, TRAINED)[: PER_EPOCH * BATCH]
        (params, state), _ = jax.lax.scan(step, (params, state), order.reshape(-1, BATCH))
        return params, state, oto_jax.group_sparsity(params, zigs).overall

    params, state = initial, tx.init(initial)
    history = [0.0]
    for number in range(EPOCHS):
        params, state, zero = epoch(params, state, jax.random.key(number))
        history.append(float(zero))
    logits = model.apply({"params": params}, images[TRAINED:])
    return history, float((logits.argmax(-1) == labels[TRAINED:]).mean())


# %% [markdown]
# ### Lambda pulls, epsilon decides
#
# Each cell is one training, with stage 2 from half-way on.

# %%
lmbdas, epsilons = (1e-3, 3e-3, 1e-2), (0.0, 0.8, 0.95)
if REDUCED:
    lmbdas, epsilons = lmbdas[2:], epsilons[1:2]
half = EPOCHS // 2 * PER_EPOCH
found = [
    [train(lmbda=lmbda, epsilon=epsilon, start_step=half) for epsilon in epsilons]
    for lmbda in lmbdas
]
zero = np.array([[100 * history[-1] for history, _ in row] for row in found])
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
picture = ax.imshow(zero, cmap="cividis", vmin=0, vmax=100, aspect="auto")
for i, row in enumerate(found):
    for j, (history, accuracy) in enumerate(row):
        text = f"{history[-1]:.0%} zero\n{accuracy:.1%} right"
        ax.text(j, i, text, ha="center", va="center", color="black" if zero[i, j] > 50 else "white")
ax.set_xticks(range(len(epsilons)), epsilons)
ax.set_yticks(range(len(lmbdas)), lmbdas)
ax.set(xlabel=r"$\epsilon$", ylabel=r"$\lambda$")
bar = figure.colorbar(picture, label="units that are zero (%)")

# %% [markdown]
# With the two smaller $\lambda$ nothing dies, whatever $\epsilon$. A group dies once its norm has
# come down to about $\alpha(\lambda + \|\nabla f\|) / (1 - \epsilon)$, and in these 840 steps it
# does not come that far. The paper trains for 234,000. With $\lambda = 0.01$ it does, and
# $\epsilon$ decides: at 0.95 the test kills nearly everything, and the accuracy with it. It looks
# at each group by itself and does not know when to stop.
#
# ### When stage 2 begins
#
# $N_p$, `start_step`, is how many steps the lasso may sort the units before any can die. Here they
# need some ten epochs to become small, so an earlier start changes nothing. A late one leaves less
# time to die in.

# %%
starts = (2,) if REDUCED else (1, 10, 20, 30)
runs = {
    f"epoch {begin}": train(lmbda=1e-2, epsilon=0.9, start_step=begin * PER_EPOCH)
    for begin in starts
}
times = list(range(EPOCHS + 1))
labelled = {f"{name}: {right:.1%} right": history for name, (history, right) in runs.items()}
ax = plot.sparsity(times, labelled, unit="epoch")

# %% [markdown]
# ## Faithful against target mode
#
# In *faithful* mode the half-space test decides how much dies: the result hangs on all the
# settings at once and is not known beforehand. In *target* mode you say what you want, and get
# exactly that. The optimizer chooses the groups with the smallest saliency, bit by bit within
# `target_steps`, fades them out and puts them to zero. No space is ever emptied.

# %%
window = {"start_step": EPOCHS // 4 * PER_EPOCH, "target_steps": half}
runs = {"faithful": train(lmbda=1e-2, epsilon=0.95, start_step=half)}
for target in (0.5,) if REDUCED else (0.5, 0.7, 0.9):
    runs[f"target {target:.0%}"] = train(lmbda=1e-3, target_group_sparsity=target, **window)
labelled = {f"{name}: {right:.1%} right": history for name, (history, right) in runs.items()}
ax = plot.sparsity(times, labelled, unit="epoch")
for name, (history, accuracy) in runs.items():
    print(f"{name:11} {history[-1]:6.1%} zero, accuracy {accuracy:.1%}")

# %% [markdown]
# Half of 256 units is 128 units, not about that. A target may also be given for each space, or as
# the share of parameters or of multiply-accumulates that shall be left: see `oto_jax.Target`.
