"""The scripts' defaults are the paper's recipes, and epochs become the right steps."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oto_jax
from experiments import (
    bert_squad,
    resnet50_cifar10,
    resnet50_imagenet,
    resnet_cifar10,
    vgg16_bn_cifar10,
    vgg16_cifar10,
)
from experiments.cifar10_task import Cifar10Options, cifar10_task
from experiments.data import cifar10
from experiments.data.folders import ROOT
from experiments.errors import OptionError
from experiments.training.ahead_of_time import count_collectives
from experiments.training.options import RunOptions, from_json, to_json
from experiments.training.parallel import data_parallel
from experiments.training.recipe import Recipe, drops, hspg_optimizer, learning_rate
from experiments.training.script import result_file, run_folder_of
from oto_jax.models.resnet import ResNet20

# learning-rate drops, lambda, its drops, N_p, epochs, batch, epsilon of dense layers.
PAPER = {
    "vgg16": (vgg16_cifar10.PAPER, ((75, 150, 225), 1e-3, (), 75, 300, 64, 0.99)),
    "vgg16_bn": (vgg16_bn_cifar10.PAPER, ((75, 150, 250), 5e-4, (), 75, 300, 64, 0.9)),
    "resnet50_cifar10": (resnet50_cifar10.PAPER, ((75, 150, 225), 1e-3, (), 75, 300, 64, None)),
    "resnet50_imagenet": (
        resnet50_imagenet.Config(),
        ((30, 60, 90), 1e-3, (35, 40, 45), 30, 120, 256, None),
    ),
}
SCRIPTS = (vgg16_cifar10, vgg16_bn_cifar10, resnet50_cifar10, resnet50_imagenet, resnet_cifar10)


@pytest.mark.parametrize("row", PAPER)
def test_the_defaults_are_the_papers(row):
    config, paper = PAPER[row]
    r = config.recipe
    found = (
        *(r.learning_rate_drops, r.lmbda, r.lmbda_drops, r.start_epoch),
        *(r.epochs, r.batch_size, r.dense_epsilon),
    )
    assert found == paper
    assert (r.learning_rate, r.momentum, r.epsilon, r.upper_group_sparsity) == (0.1, 0, 0, 1)
    assert r.target_group_sparsity is None


def test_a_value_drops_at_the_beginning_of_its_epochs():
    schedule = drops(0.1, (2, 5), steps_per_epoch=10)
    values = [float(schedule(step)) for step in (0, 19, 20, 49, 50, 1000)]
    assert values == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"epochs": 3, "start_epoch": 4},
        {"target_macs": 0.5, "target_group_sparsity": 0.5},
        {"saliency": "magnitude"},
        {"fade": 0.0},
        {"per_cost": True},
        {"distillation": 1.5},
        {"distillation": 0.5, "temperature": 0.0},
        {"cosine": True},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"lmbda": -1.0},
        {"weight_decay": float("inf")},
        {"target_epochs": -1},
        {"lmbda_drops": (-3,)},
        {"lmbda_drops": (3, 3)},
        {"target_macs": float("nan")},
        {"memory": 0.5},
        {"uncropped_epochs": -1},
    ],
)
def test_impossible_recipes_are_refused(values):
    with pytest.raises(OptionError, match="--"):
        Recipe(**values)


def test_one_shot_magnitude_pruning_keeps_the_largest_groups_from_the_first_step_on():
    params = {
        "a": {"kernel": jnp.diag(jnp.array([3.0, 1.0, 4.0, 2.0]))},
        "b": {"kernel": jnp.ones((4, 2))},
    }

    def network(params, x):
        return jnp.maximum(x @ params["a"]["kernel"], 0) @ params["b"]["kernel"]

    recipe = Recipe(
        epochs=3,
        learning_rate=0.0,
        lmbda=0.0,
        start_epoch=0,
        target_group_sparsity=0.5,
        target_epochs=0,
        saliency="magnitude",
        fade=0.0,
    )
    zigs = oto_jax.find_zigs(network, params, jnp.ones((1, 4)))
    tx = hspg_optimizer(recipe, steps_per_epoch=7)(zigs)
    state = tx.init(params)
    gradients = jax.tree.map(jnp.zeros_like, params)
    gradients["a"]["kernel"] = jnp.diag(jnp.array([0.1, 9.0, 0.1, 9.0]))  # Taylor's choice differs.
    for _ in range(2):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        assert jnp.diag(params["a"]["kernel"]).tolist() == [3.0, 0.0, 4.0, 0.0]


@pytest.mark.parametrize("options", [{"distillation": 0.5}, {"uncropped_epochs": 2}], ids=list)
def test_options_that_imagenet_has_no_use_for_are_refused_there(options):
    recipe = dataclasses.replace(resnet50_imagenet.PAPER, **options)
    with pytest.raises(OptionError, match="CIFAR-10"):
        resnet50_imagenet.Config(recipe=recipe)


def test_nesterovs_momentum_is_optax_sgds_while_no_group_dies():
    params = {"a": jnp.ones((3, 4)), "b": jnp.full((4, 2), 2.0)}
    zigs = oto_jax.find_zigs(lambda p, x: jnp.maximum(x @ p["a"], 0) @ p["b"], params, jnp.ones(3))
    recipe = Recipe(base="nesterov", momentum=0.9, lmbda=0.0, start_epoch=300)
    found, expected = (
        hspg_optimizer(recipe, steps_per_epoch=7)(zigs),
        optax.sgd(0.1, 0.9, nesterov=True),
    )
    states, networks = [found.init(params), expected.init(params)], [params, params]
    for step in range(3):
        for side, tx in enumerate((found, expected)):
            gradients = jax.tree.map(lambda x, s=step: jnp.sin(x + s), networks[side])
            updates, states[side] = tx.update(gradients, states[side], networks[side])
            networks[side] = optax.apply_updates(networks[side], updates)
    assert jax.tree.all(jax.tree.map(lambda x, y: jnp.allclose(x, y, rtol=1e-6), *networks))


def test_muon_orthogonalises_convolutions_and_adam_takes_the_rest_at_a_tenth_of_the_rate():
    model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Conv(6, (3, 3)), nn.relu, nn.Dense(2)])
    image = jnp.ones((1, 5, 5, 3))
    params = model.init(jax.random.key(0), image)
    zigs = oto_jax.find_zigs(model, params, image)
    recipe = Recipe(base="muon", momentum=0.9, lmbda=0.0, start_epoch=300, learning_rate=0.5)
    tx = hspg_optimizer(recipe, steps_per_epoch=7)(zigs)
    gradients = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
    updates, _ = tx.update(gradients, tx.init(params), params)
    for layer, update in updates["params"].items():
        if update["kernel"].ndim == 4:  # five iterations bring singular values near 1 only
            matrix = update["kernel"].reshape(-1, update["kernel"].shape[-1]) / 0.5
            values = jnp.linalg.svd(matrix, compute_uv=False)
            assert values.min() > 0.6
            assert values.max() < 1.3
        else:
            first = 1 + 0.9 * 0.1 / (1 - 0.9**2)  # of Adam with Nesterov's momentum
            expected = -0.05 * first * jnp.sign(gradients["params"][layer]["kernel"])
            assert jnp.allclose(update["kernel"], expected, rtol=1e-3)


@pytest.fixture
def four_batches(monkeypatch):
    rng = np.random.default_rng(0)
    found = cifar10.LabelledImages(
        rng.integers(0, 256, (64, 32, 32, 3), np.uint8), rng.integers(0, 10, 64, np.int32)
    )
    monkeypatch.setattr(cifar10, "load", lambda *_: found)


def small_task(options, run=None):
    recipe = dataclasses.replace(Recipe(batch_size=16, epochs=5, start_epoch=1), **options)
    parallel = data_parallel("pmap", jax.devices()[:1])
    return cifar10_task(ResNet20(), recipe, Cifar10Options(), run or RunOptions(seed=3), parallel)


@pytest.mark.parametrize(("uncropped", "first"), [(0, None), (2, 3 * 64), (9, 0)])
def test_the_last_epochs_see_whole_images(four_batches, monkeypatch, uncropped, first):
    seen = {}

    def recorded(images, positions, seed, **options):
        seen.update(options, seed=seed)
        return images

    monkeypatch.setattr("experiments.cifar10_task.crop_and_flip", recorded)
    task = small_task({"uncropped_epochs": uncropped})
    batch = next(task.batches(0))
    variables = jax.eval_shape(lambda: task.variables(0))
    jax.eval_shape(lambda v: task.loss(task.model, v, batch, jax.random.key(0)), variables)
    assert seen == {"uncropped_from": first, "seed": 3}


def test_a_base_that_cutting_would_disturb_is_refused(four_batches):
    run = RunOptions(shrink_every=1)
    with pytest.raises(OptionError, match="no --shrink-every"):
        small_task({"base": "muon"}, run)
    recipe = dataclasses.replace(resnet50_imagenet.PAPER, base="muon")
    with pytest.raises(OptionError, match="no --shrink-every"):
        resnet50_imagenet.Config(recipe=recipe, run=run)


@pytest.mark.parametrize("base", ["sgd", "nesterov", "muon"])
def test_a_target_is_reached_around_every_base(base):
    model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Conv(6, (3, 3)), nn.relu, nn.Dense(2)])
    image = jnp.linspace(-1, 1, 75).reshape(1, 5, 5, 3)
    params = model.init(jax.random.key(0), image)
    zigs = oto_jax.find_zigs(model, params, image)
    recipe = Recipe(
        epochs=4,
        learning_rate=0.01,
        momentum=0.9,
        base=base,
        weight_decay=1e-3,
        start_epoch=1,
        target_group_sparsity=0.5,
        target_epochs=2,
    )
    tx = hspg_optimizer(recipe, steps_per_epoch=5)(zigs)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: jnp.mean((model.apply(p, image) - 1) ** 2))(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
    assert int(oto_jax.group_sparsity(params, zigs).zero_groups) == 7  # of 14
    assert jnp.isfinite(model.apply(params, image)).all()


def test_a_cosine_falls_from_the_learning_rate_to_zero():
    recipe = Recipe(epochs=4, start_epoch=0, learning_rate=0.2, learning_rate_drops=(), cosine=True)
    rates = [float(learning_rate(recipe, steps_per_epoch=5)(step)) for step in range(21)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[10] == pytest.approx(0.1)
    assert rates[20] == 0
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    "values", [{"dtype": "float33"}, {"dtype": "int32"}, {"train_images": 0}, {"test_images": -1}]
)
def test_impossible_data_options_are_refused(values):
    with pytest.raises(OptionError, match="--"):
        Cifar10Options(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"accumulate": 0},
        {"log_every": 0},
        {"max_minutes": -1.0},
        {"max_minutes": float("nan")},
        {"stop_after": 0},
        {"seed": -1},
        {"seed": 10**20},
        {"name": "../elsewhere"},
        {"name": ".."},
        {"processes": 2},
        {"process": 0},
    ],
)
def test_impossible_options_are_refused(values):
    with pytest.raises(OptionError, match="--"):
        RunOptions(**values)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_configuration_comes_back_from_json(script):
    config = script.SMOKE
    data = dataclasses.replace(config.data, data_dir=Path("somewhere"))
    config = dataclasses.replace(config, data=data)
    again = from_json(type(config)(), to_json(config))
    assert again.recipe == config.recipe
    assert again.data == config.data
    assert to_json(again) == to_json(config)


def test_where_and_how_long_a_run_computes_is_no_part_of_what_it_computes():
    options = RunOptions(workdir=Path("a"), parallel="mesh", max_minutes=1.0, workers=3)
    assert to_json(options) == to_json(RunOptions())
    assert to_json(RunOptions(seed=1)) != to_json(RunOptions())
    assert str(ROOT) not in json.dumps(to_json(bert_squad.Config()))


def test_collectives_are_counted_with_their_bytes():
    program = """
      %all-reduce.1 = (f32[10,2]{1,0}, bf16[3]{0}) all-reduce(%a, %b), channel_id=1
      %all-reduce.2 = f32[] all-reduce(%c), channel_id=2
      ROOT %x = f32[4]{0} add(%all-reduce.2, %d)
      %g = s32[8]{0} all-gather-start(%e), channel_id=3
    """
    assert count_collectives(program) == {"all-reduce": (2, 90), "all-gather": (1, 32)}


def test_a_run_is_named_after_its_script_or_as_the_user_says():
    def places(**options):
        config = resnet_cifar10.Config(run=RunOptions(**options))
        folder, file = run_folder_of("script", config), result_file("script", config)
        return str(folder.relative_to(ROOT)), str(file.relative_to(ROOT))

    assert places() == ("runs/script", "results/script.json")
    assert places(name="mine") == ("runs/mine", "results/mine.json")
    assert places(smoke=True) == ("runs/script-smoke", "runs/script-smoke/result.json")
    assert places(workdir=ROOT / "a", name="mine") == ("a", "results/mine.json")
