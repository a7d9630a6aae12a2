"""The few marks that the report's plots are made of, as SVG text.

Colours are left to the page's style, which knows light, dark and paper: a mark has a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Point = tuple[float, float]

_MOST_TICKS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 16.0, 12.0, 44.0


def tag(name: str, body: str = "", /, **attributes: object) -> str:
    """Return an element.

    Args:
        name: Of the element.
        body: Markup within it.
        attributes: Escaped here; numbers are rounded to a tenth, ``class_`` and ``data_tip`` stand
            for ``class`` and ``data-tip``.
    """
    # XML, unlike HTML, takes a plain line break in an attribute for a space.
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value)).replace(chr(10), "&#10;")}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{body}</{name}>"


def document(title: str, size: Point, marks: Iterable[str]) -> str:
    """Return an ``<svg>`` element that scales with the page."""
    width, height = size
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_text(width)} {_text(height)}">'
        f"{''.join(marks)}</svg>"
    )


def line(begin: Point, end: Point, kind: str) -> str:
    """Return a straight line of a class."""
    return tag("line", class_=kind, x1=begin[0], y1=begin[1], x2=end[0], y2=end[1])


def label(text: str, at: Point, *, kind: str = "label", anchor: str = "middle") -> str:
    """Return a text whose baseline is at a point."""
    return tag("text", escape(text), class_=kind, x=at[0], y=at[1], text_anchor=anchor)


@dataclass(frozen=True)
class Axes:
    """A frame with two linear scales."""

    x_range: Point
    y_range: Point
    size: Point
    """Width and height of the picture, frame and titles included."""
    titles: tuple[str, str]
    """What the scales measure, with units."""

    def place(self, x: float, y: float) -> Point:
        """Return where a point of the scales lies in the picture."""
        width, height = self.size
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return (
            _LEFT + (width - _LEFT - _RIGHT) * (x - x0) / (x1 - x0),
            height - _BOTTOM - (height - _TOP - _BOTTOM) * (y - y0) / (y1 - y0),
        )

    def frame(self) -> list[str]:
        """Return grid lines, ticks and titles."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        marks = []
        for x in ticks(x0, x1):
            at = self.place(x, y0)
            marks.append(line(at, self.place(x, y1), "grid"))
            marks.append(label(f"{x:g}", (at[0], at[1] + 15), kind="tick"))
        for y in ticks(y0, y1):
            at = self.place(x0, y)
            marks.append(line(at, self.place(x1, y), "grid"))
            marks.append(label(f"{y:g}", (at[0] - 6, at[1] + 4), kind="tick", anchor="end"))
        width, height = self.size
        middle = (_TOP + height - _BOTTOM) / 2
        marks.append(label(self.titles[0], ((_LEFT + width - _RIGHT) / 2, height - 8), kind="tick"))
        turned = {"transform": f"translate(14 {_text(middle)}) rotate(-90)"}
        marks.append(
            tag("text", escape(self.titles[1]), class_="tick", text_anchor="middle", **turned)
        )
        return marks


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two others, ascending: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / _MOST_TICKS
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = ceil(low / step - 1e-9)
    last = floor(high / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def _text(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
