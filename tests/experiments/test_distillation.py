"""A student that says what its teacher says has nothing to learn."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import resnet_cifar10
from experiments.errors import OptionError
from experiments.training.classification import Distillation, classification_loss
from experiments.training.parallel import data_parallel
from oto_jax.models.resnet import ResNet20


class Classifier(nn.Module):
    """Logits of a dense layer."""

    @nn.compact
    def __call__(self, x, train):
        del train
        return nn.Dense(5)(x)


MODEL = Classifier()
BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).normal(size=(7, 3))),
    "label": jnp.arange(7) % 5,
}
TRAINED = MODEL.init(jax.random.key(1), BATCH["image"], train=False)


def gradients(weight, variables):
    def teacher(x):
        return MODEL.apply(TRAINED, x, train=False)

    distillation = Distillation(teacher, weight, temperature=3.0)
    loss = classification_loss(lambda batch: batch["image"], distillation)

    def value(variables):
        return loss(MODEL, variables, BATCH, jax.random.key(0))[0]

    return jax.value_and_grad(value)(variables)


def test_a_student_that_agrees_learns_nothing_from_its_teacher():
    value, gradient = gradients(1.0, TRAINED)
    assert abs(value) < 1e-6
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-6


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_labels_and_teacher_share_the_weight(weight):
    student = MODEL.init(jax.random.key(2), BATCH["image"], train=False)
    labels, teacher, both = (gradients(w, student) for w in (0.0, 1.0, weight))
    mixed = jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, labels, teacher)
    for expected, found in zip(jax.tree.leaves(mixed), jax.tree.leaves(both), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_at_a_high_temperature_the_gradient_is_the_difference_of_centred_logits():
    """Hinton, Vinyals and Dean, section 2.1: (z - v) / N for N classes."""
    rng = np.random.default_rng(3)
    student, teacher = jnp.asarray(rng.normal(size=(2, 1, 5)))
    hot = Distillation(lambda _: teacher, weight=1.0, temperature=1e3)
    with jax.enable_x64(True):
        found = jax.grad(lambda z: hot.loss(jnp.zeros(()), z))(student.astype(float))
    centred = (student - student.mean()) - (teacher - teacher.mean())
    np.testing.assert_allclose(found, centred / 5, rtol=2e-3, atol=2e-3)


def test_a_network_that_has_learned_nothing_is_refused_as_teacher(shared_data):
    del shared_data
    config = resnet_cifar10.SMOKE
    recipe = dataclasses.replace(config.recipe, distillation=0.5)
    config = dataclasses.replace(config, from_scratch=True, recipe=recipe)
    with pytest.raises(OptionError, match="--distillation"):
        resnet_cifar10.make_task(config, data_parallel("pmap"))
    taught = resnet_cifar10.make_task(
        dataclasses.replace(config, teacher=32), data_parallel("pmap")
    )
    assert taught.model == ResNet20(dtype="float32")
