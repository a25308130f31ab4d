"""The picture holds what the groups hold."""

import xml.etree.ElementTree as ElementTree

import jax
import pytest

import oto_jax
from oto_jax.models.resnet import ResNet50

pytest.importorskip("igraph", reason="drawing needs igraph, of the extra notebooks")
SVG = "{http://www.w3.org/2000/svg}"


def picture_of(model, x):
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    zigs = oto_jax.find_zigs(model, variables, x)
    return zigs, ElementTree.fromstring(zigs.draw())


def boxes(root):
    found = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}rect") is not None]
    return {group.findtext(f"{SVG}text"): group.find(f"{SVG}rect").attrib for group in found}


def test_every_space_has_a_box_and_no_two_overlap():
    zigs, root = picture_of(ResNet50(), jax.ShapeDtypeStruct((1, 64, 64, 3), "float32"))
    drawn = boxes(root)
    assert set(drawn) == {"input", "output", *(space.name for space in zigs.spaces)}
    corners = [(float(b["x"]), float(b["y"])) for b in drawn.values()]
    width, height = (float(next(iter(drawn.values()))[k]) for k in ("width", "height"))
    for i, (x, y) in enumerate(corners):
        for u, v in corners[:i]:
            assert abs(x - u) >= width or abs(y - v) >= height


def test_every_kernel_is_an_arrow():
    zigs, root = picture_of(ResNet50(), jax.ShapeDtypeStruct((1, 64, 64, 3), "float32"))
    titles = [path.findtext(f"{SVG}title") for path in root.iter(f"{SVG}path")]
    named = {name for title in titles if title for name in title.split(", ")}
    kernels = {"/".join(leaf.path[1:]) for leaf in zigs.parameters if len(leaf.shape) > 1}
    assert named == kernels


def test_the_file_holds_the_same(tmp_path):
    model, x = ResNet50(), jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    zigs, _ = picture_of(model, x)
    text = zigs.draw(tmp_path / "groups.svg")
    assert (tmp_path / "groups.svg").read_text(encoding="utf-8") == text
