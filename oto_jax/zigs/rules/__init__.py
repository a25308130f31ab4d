"""How each primitive carries dimensions from its operands to its results.

One small function per primitive, `rule(node) -> [dimensions of each result]`. A primitive without
a rule freezes the axes that it touches, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from oto_jax.zigs.dims import Dims
from oto_jax.zigs.program import Node
from oto_jax.zigs.rules import contractions, control, elementwise, indexing, randomness, shapes

Rule = Callable[[Node], list[Dims]]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **shapes.RULES,
    **contractions.RULES,
    **indexing.RULES,
    **randomness.RULES,
    **control.RULES,
}


def unknown(node: Node) -> list[Dims]:
    """Freeze every axis that an unknown primitive touches."""
    reason = f"primitive {node.name!r} has no rule"
    for value in node.ins:
        for dim in value.dims:
            node.freeze(dim, reason)
    return [tuple(node.frozen(size, reason) for size in shape) for shape in node.out_shapes]
