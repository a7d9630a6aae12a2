"""Score-based generation of symmetric crystals (Sultanov et al., J. Chem. Inf. Model. 2023).

``load_model`` is the way in from Python; see :mod:`model.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.api import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``import model`` itself costs nothing."""
    if name in __all__:
        from model import api  # noqa: PLC0415 - see above

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
