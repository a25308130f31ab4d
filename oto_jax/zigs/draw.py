"""The structure of the groups as a picture: spaces as boxes, the layers between them as arrows.

Needs igraph, of the extra ``notebooks``, which places the boxes in layers (Sugiyama's method).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path as FilePath

from oto_jax.zigs.partition import Leaf, Member, Path, Space, ZIGs, format_path

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150.0, 40.0, 18.0, 46.0, 20.0
FORWARD, BACK, BOX, END = "#0072B2", "#D55E00", "#E8F1F8", "#EEEEEE"

Edges = dict[tuple[int, int], list[Path]]


@dataclasses.dataclass(frozen=True)
class Box:
    """A space, or the network's input or output, with the place of its centre in pixels."""

    title: str
    subtitle: str
    tooltip: str
    colour: str
    x: float = 0.0
    y: float = 0.0


def draw(zigs: ZIGs, file: str | FilePath | None = None) -> str:
    """Draw which spaces feed which, as SVG.

    Each box is a space with its number of groups. An arrow is a layer that is cut along the space
    it comes from and whose units are the groups of the space it leads to; a layer that adds to a
    stream further up (a residual branch) is drawn upwards, in the other colour. Tooltips name
    every parameter.

    Args:
      zigs: the groups.
      file: where to write the SVG; None writes nothing.

    Returns:
      The SVG as text.

    Raises:
      ImportError: if igraph is missing.

    Example:
      >>> import jax, oto_jax
      >>> def f(params, x):
      ...     return jax.nn.relu(x @ params["a"]) @ params["b"]
      >>> params = {"a": jax.ShapeDtypeStruct((2, 3), "float32"),
      ...           "b": jax.ShapeDtypeStruct((3, 4), "float32")}
      >>> zigs = oto_jax.find_zigs(f, params, jax.ShapeDtypeStruct((1, 2), "float32"))
      >>> zigs.draw().startswith("<svg")
      True
    """
    edges = _edges(zigs)
    boxes = _placed(_boxes(zigs), edges)
    svg = "\n".join(_svg(boxes, edges, len(zigs.prefix)))
    if file is not None:
        FilePath(file).write_text(svg, encoding="utf-8")
    return svg


def _boxes(zigs: ZIGs) -> list[Box]:
    """The input, the spaces in the order of the program, the output."""
    spaces = [
        Box(space.name, f"{space.size} groups", _tooltip(space, len(zigs.prefix)), BOX)
        for space in zigs.spaces
    ]
    return [Box("input", "", "", END), *spaces, Box("output", "", "", END)]


def _tooltip(space: Space, skip: int) -> str:
    rows = [("zeroed", member) for member in space.members]
    rows += [("cut", member) for member in space.dependents]
    return "\n".join(f"{kind}: {format_path(m.path[skip:])} axis {m.axis}" for kind, m in rows)


def _edges(zigs: ZIGs) -> Edges:
    """(from box, to box) -> the parameters in between."""
    found: Edges = {}
    producing = _numbers([s.members for s in zigs.spaces])
    consuming = _numbers([s.dependents for s in zigs.spaces])
    for leaf in zigs.parameters:
        if _is_layer(leaf):
            for source in consuming.get(leaf.path, [0]):
                for target in producing.get(leaf.path, [len(zigs.spaces) + 1]):
                    if (source, target) != (0, len(zigs.spaces) + 1):
                        found.setdefault((source, target), []).append(leaf.path)
    return found


def _is_layer(leaf: Leaf) -> bool:
    """Whether an array maps one axis to another, as kernels do and biases do not."""
    return sum(size > 1 for size in leaf.shape) > 1


def _numbers(members: Sequence[Sequence[Member]]) -> Mapping[Path, list[int]]:
    found: dict[Path, list[int]] = {}
    for number, group in enumerate(members, start=1):
        for path in dict.fromkeys(member.path for member in group):
            found.setdefault(path, []).append(number)
    return found


def _layers(count: int, edges: Edges) -> list[int]:
    """The longest way from the input along edges that lead on in the program."""
    layers = [0] + [1] * (count - 1)
    for source, target in sorted(edges):
        if source < target:
            layers[target] = max(layers[target], layers[source] + 1)
    layers[-1] = max(layers) + (max(layers) != layers[-1])
    return layers


def _placed(boxes: Sequence[Box], edges: Edges) -> list[Box]:
    import igraph

    graph = igraph.Graph(n=len(boxes), edges=list(edges), directed=True)
    layout = graph.layout_sugiyama(layers=_layers(len(boxes), edges))
    return [
        dataclasses.replace(
            box,
            x=MARGIN + WIDTH / 2 + x * (WIDTH + GAP_X),
            y=MARGIN + HEIGHT / 2 + y * (HEIGHT + GAP_Y),
        )
        for box, (x, y) in zip(boxes, list(layout)[: len(boxes)], strict=True)
    ]


def _svg(boxes: Sequence[Box], edges: Edges, skip: int) -> Iterator[str]:
    left = min(box.x for box in boxes) - WIDTH / 2 - MARGIN
    width = max(box.x for box in boxes) + WIDTH / 2 + MARGIN - left
    height = max(box.y for box in boxes) + HEIGHT / 2 + MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="11">'
    )
    yield "<title>Spaces of zero-invariant groups and the layers between them</title>"
    for name, colour in (("forward", FORWARD), ("back", BACK)):
        yield (
            f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
            f' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        )
    for (source, target), paths in edges.items():
        yield from _arrow(boxes[source], boxes[target], [path[skip:] for path in paths])
    for box in boxes:
        yield from _box(box)
    yield "</svg>"


def _arrow(source: Box, target: Box, paths: Sequence[Path]) -> Iterator[str]:
    names = ", ".join(format_path(path) for path in paths)
    back = target.y <= source.y
    side = -1 if back else 1
    x0, y0 = source.x + (12 if back else -12), source.y + side * HEIGHT / 2
    x1, y1 = target.x + (12 if back else -12), target.y - side * HEIGHT / 2
    bend = side * max(GAP_Y * 0.6, abs(y1 - y0) * 0.4)
    # A long straight arrow would hide behind the boxes that it passes.
    bow = WIDTH * 0.75 if x0 == x1 and abs(y1 - y0) > 2 * GAP_Y else 0.0
    kind, colour = ("back", BACK) if back else ("forward", FORWARD)
    yield (
        f'<path d="M{x0:.0f} {y0:.0f}C{x0 + bow:.0f} {y0 + bend:.0f} {x1 + bow:.0f} {y1 - bend:.0f}'
        f' {x1:.0f} {y1:.0f}" fill="none" stroke="{colour}" stroke-width="1.3"'
        f' marker-end="url(#{kind})"><title>{escape(names)}</title></path>'
    )


def _box(box: Box) -> Iterator[str]:
    x, y = box.x - WIDTH / 2, box.y - HEIGHT / 2
    middle = box.y + (-3 if box.subtitle else 4)
    yield (
        f'<g><title>{escape(box.tooltip or box.title)}</title><rect x="{x:.0f}" y="{y:.0f}"'
        f' width="{WIDTH:.0f}" height="{HEIGHT:.0f}" rx="5" fill="{box.colour}"'
        f' stroke="#555555"/><text x="{box.x:.0f}" y="{middle:.0f}" text-anchor="middle"'
        f"{_squeezed(box.title)}>{escape(box.title)}</text>"
    )
    if box.subtitle:
        yield (
            f'<text x="{box.x:.0f}" y="{box.y + 12:.0f}" text-anchor="middle"'
            f' fill="#555555">{escape(box.subtitle)}</text>'
        )
    yield "</g>"


def _squeezed(text: str) -> str:
    """Long names are pressed into their box."""
    return f' textLength="{WIDTH - 10:.0f}" lengthAdjust="spacingAndGlyphs"' * (len(text) > 23)
