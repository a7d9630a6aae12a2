"""Where a figure comes from: the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_GIB = 2**30


def hardware() -> dict[str, Any]:
    """Return what this machine is made of."""
    import torch  # noqa: PLC0415 - slow to import

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / _GIB, 1),
        "gpus": gpus,
        "platform": platform.platform(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
