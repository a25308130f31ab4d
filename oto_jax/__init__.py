"""Only Train Once in JAX: train a network once, prune it to the same outputs."""

from oto_jax.errors import (
    CheckpointError,
    HyperparameterError,
    InfeasibleTargetError,
    NonFiniteParametersError,
    OTOError,
    UnprunableModelError,
    UntraceableError,
    ZIGMismatchError,
)
from oto_jax.zigs.find import find_zigs
from oto_jax.zigs.partition import ZIGs

__all__ = [
    "CheckpointError",
    "HyperparameterError",
    "InfeasibleTargetError",
    "NonFiniteParametersError",
    "OTOError",
    "UnprunableModelError",
    "UntraceableError",
    "ZIGMismatchError",
    "ZIGs",
    "find_zigs",
]
