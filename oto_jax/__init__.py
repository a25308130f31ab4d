"""Only Train Once in JAX: train a network once, prune it to the same outputs."""

from oto_jax.errors import (
    CheckpointError,
    HyperparameterError,
    InfeasibleTargetError,
    NonFiniteParametersError,
    OTOError,
    OutputMismatchError,
    PlotError,
    RevivedGroupsError,
    UnprunableModelError,
    UntraceableError,
    ZIGMismatchError,
)
from oto_jax.optim import saliency
from oto_jax.optim.hspg import hspg, pass_gradient
from oto_jax.optim.hyperparameters import AdaptiveEpsilon
from oto_jax.optim.metrics import GroupSparsity, group_sparsity
from oto_jax.optim.target import Target
from oto_jax.optim.transforms import add_group_lasso, project_half_space
from oto_jax.optim.zeros import check_zeros
from oto_jax.prune.certify import Certificate, certify
from oto_jax.prune.composition import compose_plans
from oto_jax.prune.macs import count_macs, count_parameters
from oto_jax.prune.narrow import narrow
from oto_jax.prune.plan import Plan, make_plan
from oto_jax.prune.prune import Pruned, prune
from oto_jax.prune.shrink_zigs import shrink_zigs
from oto_jax.prune.slicing import shrink, widen
from oto_jax.prune.storage import load, save
from oto_jax.zigs.find import find_zigs
from oto_jax.zigs.partition import ZIGs

__all__ = [
    "AdaptiveEpsilon",
    "Certificate",
    "CheckpointError",
    "GroupSparsity",
    "HyperparameterError",
    "InfeasibleTargetError",
    "NonFiniteParametersError",
    "OTOError",
    "OutputMismatchError",
    "Plan",
    "PlotError",
    "Pruned",
    "RevivedGroupsError",
    "Target",
    "UnprunableModelError",
    "UntraceableError",
    "ZIGMismatchError",
    "ZIGs",
    "add_group_lasso",
    "certify",
    "check_zeros",
    "compose_plans",
    "count_macs",
    "count_parameters",
    "find_zigs",
    "group_sparsity",
    "hspg",
    "load",
    "make_plan",
    "narrow",
    "pass_gradient",
    "project_half_space",
    "prune",
    "saliency",
    "save",
    "shrink",
    "shrink_zigs",
    "widen",
]
