"""What the commands' options have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

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


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDR", help="A Ray cluster to join; without it, one is started here."),
]
NumSamplers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=integer("--num-samplers", 1),
        help="Samplers at work at once; as many as fit, without it.",
    ),
]
Cores = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=integer("--cores", 1),
        help="Cores of the Ray that is started here; all of them, without it.",
    ),
]
Checkpoint = Annotated[str, typer.Option(metavar="F", help="A checkpoint's name or path.")]
SamplerName = Annotated[str, typer.Option(metavar="NAME", help="A sampler's name.")]
Calculator = Annotated[str, typer.Option(metavar="NAME", help="A potential, as in a campaign.")]
