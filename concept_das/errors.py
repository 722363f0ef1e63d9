"""Errors that name a culprit and a remedy."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one sentence for them to read."""


class TrainingError(RuntimeError):
    """Training cannot go on, for example after a NaN. The message names the batch."""


class OutsideError(RuntimeError):
    """Something outside, such as an endpoint, does not work for now. Finished work is kept."""


class UnfinishedError(OutsideError):
    """It did not work for a part of the work, which the next run tries again."""


class VectorMismatchError(InputError):
    """A saved vector does not belong to the model it is applied to."""
