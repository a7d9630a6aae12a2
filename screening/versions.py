"""The versions that a result depends on, read without importing what they belong to."""

from __future__ import annotations

import platform
from importlib.metadata import version

from model.shipped import DEFAULT_CHECKPOINT, file_fingerprint, shipped

PACKAGES = (
    "crystal-screening", "torch", "numpy", "scipy", "pymatgen", "pymatgen-core", "spglib", "smact",
    "chgnet", "ray",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and of everything that a figure depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def versions_text() -> str:
    """Return what `screening --version` prints: package, checkpoints, Python and libraries."""
    own, *libraries = PACKAGES
    lines = [f"{own} {version(own)}"]
    for name, path in shipped().items():
        default = " (default)" if name == DEFAULT_CHECKPOINT else ""
        lines.append(f"checkpoint {name} {file_fingerprint(path)}{default}")
    lines.append(f"python {platform.python_version()}")
    lines += [f"{name} {version(name)}" for name in libraries]
    return "\n".join(lines)
