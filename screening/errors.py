"""The errors that a user is meant to read."""

from __future__ import annotations

import platform


class ScreeningError(Exception):
    """An error whose message is written for the user: one sentence, no traceback."""

    exit_status = 1


class UserError(ScreeningError):
    """Something the user can put right: the message names the field, the value, what is allowed."""

    exit_status = 2


class RunError(ScreeningError):
    """Something that failed although it was asked for rightly: a full disk, a lost machine."""


class MissingFileError(RunError):
    """A file of the results is not, or no longer, there."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return an error as one line, for a column or a message."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(value: object, limit: int = 60) -> str:
    """Return a value as it is quoted in a message: whatever its size, it fits on a line."""
    if isinstance(value, int) and value.bit_length() > limit:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str) and len(value) > limit:
        return repr(value[:limit] + "…")
    text = repr(value)
    return text if len(text) <= limit + 2 else text[:limit] + "…"


def refuse_another(what: str, found: str, meant: str) -> None:
    """Stop where a machine has another version, or a file was changed since the work began.

    Raises:
        UserError: if the fingerprint that a worker found is not the one that is meant.
    """
    if found != meant:
        raise UserError(
            f"the {what} of a worker on {platform.node()} is {found}, where {meant} is meant; "
            f"results would not be comparable, so give all machines the same versions and files "
            f"before you go on"
        )
