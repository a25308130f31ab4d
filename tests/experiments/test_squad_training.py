"""Fine-tuning on SQuAD: the loss, the optimizers, the evaluation, and the exported model."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oto_jax
from experiments.errors import DamagedDataError, OptionError
from experiments.squad.evaluation import INPUTS, Evaluator, count_differences
from experiments.squad.export import export_model, load_exported
from experiments.squad.features import WindowSizes, make_features, windows_batch
from experiments.squad.questions import Answer, Question
from experiments.squad.recipe import SquadRecipe, optimizer
from experiments.squad.task import SquadOptions, load_shape, span_loss, squad_batches, squad_task
from experiments.squad.tokenizer import VocabularyError, load_tokenizer
from experiments.training import parallel as par
from experiments.training.options import RunOptions
from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(26))]
CONFIG = BertConfig.uniform(1, 8, 2, 6, vocabulary=30, positions=300, dropout=0.0)
CONFIG = dataclasses.replace(CONFIG, attention_dropout=0.0)
MODEL = BertForQuestionAnswering(CONFIG)
QUESTIONS = [
    Question(
        str(number),
        "t",
        context := " ".join(f"w{(i * i + number) % 26}" for i in range(length)),
        "w1 w2 w3",
        (Answer(0, context.split()[0]),),
    )
    for number, length in enumerate((3, 200, 20, 150, 40, 7))
]


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("\n".join(WORDS))
    return file


@pytest.fixture(scope="module")
def features(vocabulary):
    return make_features(QUESTIONS, load_tokenizer(vocabulary), WindowSizes(160, 60, 8))


@pytest.fixture(scope="module")
def variables():
    ids, draw = np.ones((1, 4), np.int32), np.random.default_rng(0)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), ids)
    return jax.tree.map(lambda a: draw.normal(0, 0.5, a.shape).astype(a.dtype), shapes)


@pytest.fixture(scope="module")
def zigs(variables):
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    return oto_jax.find_zigs(
        MODEL, variables, ids, ids, ids, train=False, **SquadRecipe().zigs_options
    )


def test_the_loss_is_the_mean_of_start_and_end_and_ignores_padding(features, variables):
    batch = windows_batch(features, [0, 1])
    compute = jax.jit(span_loss, static_argnums=0)
    loss, (state, metrics) = compute(MODEL, variables, batch, jax.random.key(0))
    logits = np.asarray(jax.jit(MODEL.apply)(variables, *(batch[name] for name in INPUTS)))
    expected = []
    for row in range(2):
        for side in (0, 1):
            seen = logits[row, batch["attention_mask"][row] > 0, side]
            at = batch["answer"][row, side]
            expected.append(np.log(np.sum(np.exp(seen))) - seen[at])
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)
    assert state == {}
    assert 0 <= float(metrics["exact_spans"]) <= 100


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_trimmed_batches_give_the_logits_of_whole_windows(features, variables, kind):
    parallel = par.data_parallel(kind)
    replicated = par.replicate(parallel, variables)
    found = Evaluator(QUESTIONS, features, parallel, batch_size=4).logits(MODEL, replicated)
    batch = windows_batch(features, range(features.windows))
    whole = jax.jit(MODEL.apply)(variables, *(batch[name] for name in INPUTS))
    real = batch["attention_mask"] > 0
    assert np.abs(found - whole)[real].max() < 1e-4
    assert features.windows > len(QUESTIONS)  # Some contexts take several windows.


def test_the_evaluator_scores_every_question_and_remembers_two_models(features, variables):
    parallel = par.data_parallel("mesh")
    evaluate = Evaluator(QUESTIONS, features, parallel, batch_size=8)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    for weights in (zeros, variables, zeros):
        scores = evaluate(MODEL, par.replicate(parallel, weights))
        assert scores["questions"] == len(QUESTIONS)
    older, newer = evaluate.latest
    # Equal scores everywhere: the first word is the answer, as it is here.
    assert scores == {"exact_match": 100.0, "f1": 100.0, "questions": 6}
    assert count_differences(newer, newer) == 0
    assert count_differences(older, newer) > 0


def test_batches_are_the_windows_of_a_step(features):
    parallel = par.data_parallel("mesh")
    first = [next(squad_batches(features, 4, 0, step, parallel)) for step in (0, 1)]
    again = squad_batches(features, 4, 0, 0, parallel)
    for expected in first:
        found = next(again)
        assert found.keys() == {*INPUTS, "answer"}
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def trained(recipe, zigs, variables, features, steps=4):
    """Parameters after some steps of two steps an epoch, and how many of each space are zero."""
    tx = optimizer(recipe, zigs, steps_per_epoch=2)
    batches = squad_batches(features, 4, 0, 0, par.data_parallel("mesh"))

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            return span_loss(MODEL, {"params": params}, batch, jax.random.key(0))[0]

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = variables["params"], tx.init(variables["params"])
    for _ in range(steps):
        params, state = step(params, state, next(batches))
    found = oto_jax.group_sparsity(params, zigs)
    return params, {name.split("/")[-1]: float(v) for name, v in found.per_space.items()}


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_faithful_mode_respects_the_rows_bound_and_freezes_embeddings(
    base, zigs, variables, features
):
    recipe = SquadRecipe(
        row=70,
        base=base,
        learning_rate=0.05,
        learning_rate_drops=(),
        lmbda=0.1,
        lmbda_drops=(),
        epsilon_every=1,
    )
    params, sparsity = trained(recipe, zigs, variables, features, steps=18)
    assert sparsity["intermediate"] == pytest.approx(
        4 / 6
    )  # The most that is no more than 70 % of 6 units.
    before, after = (p["encoder"]["embeddings"] for p in (variables["params"], params))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), variables["params"], params)
    assert moved["qa_outputs"]["kernel"] > 0


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_target_mode_reaches_its_target(base, zigs, variables, features):
    recipe = SquadRecipe(
        mode="target", base=base, target_group_sparsity=0.4, epochs=4, target_epochs=2
    )
    params, _ = trained(recipe, zigs, variables, features, steps=6)
    assert int(oto_jax.group_sparsity(params, zigs).zero_groups) == 4  # Of 10.


def test_dense_mode_prunes_nothing_and_embeddings_can_be_trained(zigs, variables, features):
    recipe = SquadRecipe(mode="dense", base="adamw", train_embeddings=True)
    params, sparsity = trained(recipe, zigs, variables, features, steps=2)
    assert set(sparsity.values()) == {0.0}
    before, after = (p["encoder"]["embeddings"]["norm"] for p in (variables["params"], params))
    assert np.abs(before["scale"] - after["scale"]).max() > 0


def test_gradients_are_clipped_without_the_frozen_ones(zigs, variables):
    recipe = SquadRecipe(mode="dense", learning_rate=1.0)
    tx = optimizer(recipe, zigs, steps_per_epoch=1)
    params = variables["params"]
    huge = jax.tree.map(lambda a: jnp.full_like(a, 1e3), params)
    updates, _ = jax.jit(tx.update)(huge, tx.init(params), params)
    assert float(optax.tree.norm(updates)) == pytest.approx(1.0, rel=1e-5)
    assert float(optax.tree.norm(updates["encoder"]["embeddings"])) == 0.0


def test_the_papers_schedules():
    from experiments.squad.recipe import _learning_rate

    rate = _learning_rate(SquadRecipe(), steps_per_epoch=100)
    assert [float(rate(step)) for step in (0, 399, 401)] == pytest.approx([0.1, 0.1, 0.01])
    warm = _learning_rate(SquadRecipe(base="adamw", epochs=10), steps_per_epoch=100)
    expected = [0.0, 2.5e-5, 5e-5, 2.5e-5, 0.0]
    assert [float(warm(s)) for s in (0, 50, 100, 550, 1000)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("groups", ["paper", "head_dim", "heads"])
def test_which_groups_a_recipe_asks_for(groups, variables):
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    options = SquadRecipe(groups=groups).zigs_options
    found = oto_jax.find_zigs(MODEL, variables, ids, ids, ids, train=False, **options)
    sizes = {space.name.removeprefix("encoder/layer_0/"): space.size for space in found.spaces}
    expected = {
        "paper": {"attention/query": 4, "ffn/intermediate": 6},
        "head_dim": {"attention/query": 4, "attention/value": 4, "ffn/intermediate": 6},
        "heads": {"attention/query": 2, "ffn/intermediate": 6},
    }
    assert sizes == expected[groups]


def test_an_exported_model_takes_any_batch_size(variables, tmp_path):
    file = tmp_path / "model.stablehlo"
    export_model(file, MODEL, variables, length=16)
    run = load_exported(file)
    draw = np.random.default_rng(0)
    for size in (1, 3):
        ids = draw.integers(0, 30, (size, 16)).astype(np.int32)
        types, mask = (ids > 15).astype(np.int32), (ids > 3).astype(np.int32)
        expected = jax.jit(MODEL.apply)(variables, ids, types, mask)
        assert np.abs(run(ids, types, mask) - expected).max() < 1e-5
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DamagedDataError, match=r"model\.stablehlo"):
        load_exported(file)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"vocabulary": None}, OptionError, "--vocabulary"),
        ({"checkpoint": "some/bert"}, OptionError, "exclude each other"),
        ({"windows": WindowSizes(400, 60, 8)}, OptionError, "300 positions"),
        ({"train_questions": 0}, OptionError, "at least 1"),
    ],
)
def test_options_that_cannot_be_are_named(vocabulary, tmp_path, changes, error, words):
    data = make_options(vocabulary, tmp_path, vocab_size=30)
    with pytest.raises(error, match=words):
        make_task(dataclasses.replace(data, **changes))


def test_frozen_embeddings_cannot_lose_residual_width():
    with pytest.raises(OptionError, match="--train-embeddings"):
        SquadRecipe(groups="residual")


def test_a_vocabulary_of_other_weights_is_named(vocabulary, tmp_path):
    with pytest.raises(VocabularyError, match="30 words"):
        load_shape(make_options(vocabulary, tmp_path, vocab_size=41))


def test_flawed_questions_are_counted_and_kept_out_of_training(vocabulary, tmp_path, capsys):
    data = make_options(vocabulary, tmp_path, vocab_size=30)
    task = make_task(data)
    printed = capsys.readouterr().out
    assert "Training on 1 of 3 questions" in printed
    assert "1 with an empty context" in printed
    assert "Answering 3 questions" in printed
    assert "1 without any context are answered with nothing" in printed
    parallel = par.data_parallel("pmap")
    scores = task.evaluate(task.model, par.replicate(parallel, task.variables(0)))
    assert scores["questions"] == 3
    assert isinstance(task.model, nn.Module)


def make_task(data):
    return squad_task(SquadRecipe(batch_size=1), data, RunOptions(), par.data_parallel("pmap"))


def make_options(vocabulary, tmp_path, vocab_size):
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    shape |= {"intermediate_size": 6, "vocab_size": vocab_size, "max_position_embeddings": 300}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    questions = [
        ("w1 w2 w3", {"text": "w2", "answer_start": 3}),
        ("w1 w2 w3", {"text": "w9", "answer_start": 3}),
        (" ", {"text": "w2", "answer_start": 3}),
    ]
    paragraphs = [
        {"context": context, "qas": [{"id": str(i), "question": "w5", "answers": [answer]}]}
        for i, (context, answer) in enumerate(questions)
    ]
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    return SquadOptions(
        checkpoint=None,
        config_file=tmp_path / "config.json",
        vocabulary=vocabulary,
        train_file=file,
        eval_file=file,
        windows=WindowSizes(32, 8, 8),
        cache=tmp_path / "cache",
    )
