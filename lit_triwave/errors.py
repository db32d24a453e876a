"""Errors that the command line shows as one line, without a traceback."""


class TriwaveError(Exception):
    """Something that the user can mend; its message says what was wrong and what would be right."""


class TrainingDiverged(TriwaveError):
    """The loss is no longer finite."""
