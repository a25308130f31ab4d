"""The named errors of the experiments. Each says what is wrong, where, and what to do about it."""


class ExperimentError(ValueError):
    """Base class of every error that an experiment raises on bad input."""


class MissingDataError(ExperimentError, FileNotFoundError):
    """A data set is not where it was looked for; the message says how to prepare it."""


class DamagedDataError(ExperimentError):
    """A file of a data set is cut off, altered, or of another data set."""


class BatchSizeError(ExperimentError):
    """A batch cannot be divided evenly among devices, hosts or accumulation steps."""


class OptionError(ExperimentError):
    """Options contradict each other or have an impossible value."""


class RunInUseError(ExperimentError):
    """Another process is training in the same run folder."""


class CheckpointMismatchError(ExperimentError):
    """A run folder holds checkpoints of another configuration."""


class DiskFullError(ExperimentError):
    """There is no room for a checkpoint; the last good one is untouched."""


class DivergedError(ExperimentError):
    """The training has left the finite numbers."""


class CompileOnlyError(ExperimentError):
    """A TPU's compiler is missing, or does not know the topology that was asked for."""
