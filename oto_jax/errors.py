"""The named errors. Each says what is wrong, where, and what to do about it."""


class OTOError(ValueError):
    """Base class of every error that this library raises on bad input."""


class UntraceableError(OTOError):
    """The model cannot be traced to a jaxpr with the given arguments."""


class UnprunableModelError(OTOError):
    """Nothing in the model can be pruned, or a module cannot be rebuilt at the asked widths."""


class ZIGMismatchError(OTOError):
    """A tree of parameters or variables is not the one that the ZIGs were found on."""


class HyperparameterError(OTOError):
    """A hyperparameter has an impossible value (negative, NaN, out of range)."""


class InfeasibleTargetError(HyperparameterError):
    """A sparsity target cannot be met without emptying a space."""


class NonFiniteParametersError(OTOError):
    """Parameters hold NaN or infinity where exact zeros have to be told apart."""


class CheckpointError(OTOError):
    """A saved slim model is damaged, incomplete or belongs to another model."""


class OutputMismatchError(OTOError):
    """The outputs of two models cannot be compared: other structure or other shapes."""


class RevivedGroupsError(OTOError):
    """Groups that the optimizer put to zero are not zero: something wrote to them afterwards."""


class PlotError(OTOError):
    """What is to be drawn is empty, out of range, or does not fit together."""
