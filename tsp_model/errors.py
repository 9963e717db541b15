"""What all errors that people can mend have in common."""

from __future__ import annotations


class ExplainedError(Exception):
    """Its text is one line for people: the cause, then the remedy. Whoever runs a command prints it and no trace."""


class NonFiniteError(ExplainedError):
    """A loss, a prediction or a score is NaN or infinite; the message names what it was about."""
