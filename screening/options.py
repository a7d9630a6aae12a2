"""What the commands' options have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from screening.errors import UserError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST_BITS = 63


def integer(option: str, lowest: int) -> Callable[[str], int]:
    """Return the parser of an option; Typer's own messages leave the value out."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not lowest <= value < 2**_LARGEST_BITS:
            raise UserError(f"{option} is {shown(text)}; allowed: an integer from {lowest}")
        return value

    return parse
