"""Where tensors are computed, and how they get there without holding anything up."""

from __future__ import annotations

import torch
from torch import Tensor


def chosen_device(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, a GPU where there is one, and any other name as it is."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Send numbers from the host to a device, which goes on with what it has to do meanwhile."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
