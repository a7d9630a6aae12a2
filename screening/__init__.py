"""From the names of elements to a ranked table of candidate crystals.

``Campaign`` is the way in from Python; see :mod:`screening.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from screening.api import Campaign

__all__ = ["Campaign"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``import screening`` itself costs nothing."""
    if name in __all__:
        from screening import api  # noqa: PLC0415 - see above

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
