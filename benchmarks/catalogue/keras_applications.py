"""The image models of keras.applications, on Keras's JAX backend."""

from __future__ import annotations

import functools
import os
from typing import Any

from benchmarks.catalogue.architecture import Architecture, Subject, doubled, images


def _subject(name: str, size: int, **kwargs: Any) -> Subject:
    """``stateless_call`` of a Keras model as a function of trained and untrained variables."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    keras.config.set_floatx("float64")
    keras.backend.clear_session()
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10, **kwargs)
    trained = [variable.path for variable in model.trainable_variables]
    fixed = [variable.path for variable in model.non_trainable_variables]

    def fn(variables: Any, x: Any) -> Any:
        weights = [variables["params"][path] for path in trained]
        state = [variables["state"][path] for path in fixed]
        return model.stateless_call(weights, state, x, training=False)[0]

    variables = {
        "params": dict(zip(trained, map(_shape, model.trainable_variables), strict=True)),
        "state": dict(zip(fixed, map(_shape, model.non_trainable_variables), strict=True)),
    }
    return Subject(fn, doubled(variables), (images(size, batch=1),))


def _shape(variable: Any) -> Any:
    return variable.value


_MODELS: dict[str, dict[str, Any]] = {
    "VGG19": {"size": 32},
    "ResNet50V2": {"size": 32},
    "Xception": {"size": 71},
    "MobileNet": {"size": 32, "alpha": 0.25},
    "MobileNetV2": {"size": 32, "alpha": 0.35},
    "MobileNetV3Small": {"size": 32, "minimalistic": False},
    "EfficientNetB0": {"size": 32},
    "DenseNet121": {"size": 32},
    "ConvNeXtTiny": {"size": 32},
    "InceptionV3": {"size": 75},
    "NASNetMobile": {"size": 32},
}

ARCHITECTURES = [
    Architecture(f"{name} (Keras)", "keras", functools.partial(_subject, name, **kwargs))
    for name, kwargs in _MODELS.items()
]
