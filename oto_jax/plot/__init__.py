"""Pictures of groups, of training and of what was cut, drawn with matplotlib.

Every function takes the axes to draw on as ``ax`` (or ``axes``, where there are several) and
returns them; without, it makes a new figure with `matplotlib.pyplot`, which a notebook shows by
itself. Nothing else of pyplot's state is read or changed. Needs matplotlib, of the extra
``notebooks``; ``import oto_jax`` alone does not load it: write ``from oto_jax import plot``.

Colours are Okabe and Ito's, which can be told apart with any colour vision: blue is what is kept,
vermilion what is exactly zero or cut, grey the full network.
"""

from oto_jax.plot.costs import costs, trade_off
from oto_jax.plot.histogram import NormHistogram, count_norms, histogram
from oto_jax.plot.layers import layers
from oto_jax.plot.norms import measure_norms, norm_curves, norm_map
from oto_jax.plot.sparsity import sparsity
from oto_jax.plot.units import transformer, units
from oto_jax.plot.widths import widths

__all__ = [
    "NormHistogram",
    "costs",
    "count_norms",
    "histogram",
    "layers",
    "measure_norms",
    "norm_curves",
    "norm_map",
    "sparsity",
    "trade_off",
    "transformer",
    "units",
    "widths",
]
