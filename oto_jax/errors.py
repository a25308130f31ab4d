"""The named errors. Each says what is wrong, where, and what to do about it."""


class OTOError(ValueError):
    """Base class of every error that this library raises on bad input.

    Catch it to catch them all; each says what is wrong, where, and what to do about it.
    """


class UntraceableError(OTOError):
    """The model cannot be traced to a jaxpr with the given arguments.

    Raised by `oto_jax.find_zigs`, and by what `oto_jax.narrow` returns.
    """


class UnprunableModelError(OTOError):
    """Nothing in the model can be pruned, or a module cannot be rebuilt at the asked widths.

    Raised by `oto_jax.find_zigs`, `oto_jax.hspg`, `oto_jax.add_group_lasso`,
    `oto_jax.project_half_space`, `oto_jax.make_plan`, `oto_jax.prune`, `oto_jax.narrow` and
    `oto_jax.certify`; the message says what stands in the way.
    """


class ZIGMismatchError(OTOError):
    """A tree of parameters or variables is not the one that the ZIGs were found on.

    Raised by `oto_jax.make_plan`, `oto_jax.prune`, `oto_jax.narrow`, `oto_jax.shrink`,
    `oto_jax.shrink_zigs`, `oto_jax.compose_plans`, `oto_jax.widen`, `oto_jax.group_sparsity`,
    `oto_jax.check_zeros`, the optimizer's updates (`oto_jax.hspg`, `oto_jax.add_group_lasso`,
    `oto_jax.project_half_space`), `oto_jax.save` and `oto_jax.plot.measure_norms`; the message
    names the first parameter that differs.
    """


class HyperparameterError(OTOError):
    """A hyperparameter has an impossible value (negative, NaN, out of range).

    Raised by `oto_jax.hspg`, `oto_jax.add_group_lasso`, `oto_jax.project_half_space`,
    `oto_jax.Target`, `oto_jax.AdaptiveEpsilon` and `oto_jax.find_zigs`; the message names the
    argument, its value and the range.
    """


class InfeasibleTargetError(HyperparameterError):
    """A sparsity target cannot be met without emptying a space.

    Raised by `oto_jax.hspg` and `oto_jax.project_half_space`; the message says what can be met.
    """


class NonFiniteParametersError(OTOError):
    """Parameters hold NaN or infinity where exact zeros have to be told apart.

    Raised by `oto_jax.make_plan`, `oto_jax.prune`, `oto_jax.narrow` and
    `oto_jax.plot.measure_norms`; the message names the parameter.
    """


class CheckpointError(OTOError):
    """A saved slim model is damaged, incomplete or belongs to another model.

    Raised by `oto_jax.save` and `oto_jax.load`; the message names the file or array.
    """


class OutputMismatchError(OTOError):
    """The outputs of two models cannot be compared: other structure or other shapes.

    Raised by `oto_jax.certify`.
    """


class RevivedGroupsError(OTOError):
    """Groups that the optimizer put to zero are not zero: something wrote to them afterwards.

    Raised by `oto_jax.check_zeros`; the message names the groups.
    """


class PlotError(OTOError):
    """What is to be drawn is empty, out of range, or does not fit together.

    Raised by `oto_jax.plot.costs`, `oto_jax.plot.trade_off`, `oto_jax.plot.count_norms`,
    `oto_jax.plot.histogram`, `oto_jax.plot.layers`, `oto_jax.plot.norm_curves`,
    `oto_jax.plot.norm_map`, `oto_jax.plot.sparsity`, `oto_jax.plot.units`,
    `oto_jax.plot.transformer` and `oto_jax.plot.widths`.
    """
