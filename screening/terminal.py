"""Colour, where it can be seen: on a terminal, unless the user asked for none."""

from __future__ import annotations

import os
from typing import TextIO

_CODES = {"green": 32, "yellow": 33, "red": 31}


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Return a text in colour if a stream shows colours, and as it is if not.

    Args:
        text: What will be written.
        colour: ``green``, ``yellow`` or ``red``.
        stream: Where it will be written.
    """
    return f"\033[{_CODES[colour]}m{text}\033[0m" if _shows_colours(stream) else text


def _shows_colours(stream: TextIO) -> bool:
    """Whether it is a terminal; https://no-color.org says what ``NO_COLOR`` means."""
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not dumb and not os.environ.get("NO_COLOR")
