"""How few atoms a number of inequivalent sites can make, for every space group, without waiting.

The numbers follow from ``model.symmetry``, which takes about a second for a cubic group; a plan of
thousands of cells asks for all groups at once, so they are kept in ``data/smallest_orbits.json``.
``python -m screening.orbits FILE`` computes that file, and the tests compare the two.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from model.symmetry import HIGHEST_SPACE_GROUP, LOWEST_SPACE_GROUP, space_group

_TABLE = Path(__file__).parent / "data" / "smallest_orbits.json"


@dataclass(frozen=True)
class SmallestOrbits:
    """The orbits that decide how few atoms a primitive cell can have."""

    fixed: tuple[int, ...]
    """Multiplicities, ascending, of orbits without a free coordinate, each of which one site of a
    crystal can take; only those smaller than ``free``."""
    free: int
    """Multiplicity of the smallest orbit with a free coordinate, which any number can take."""

    def fewest_atoms(self, n_sites: int) -> int:
        """Return the fewest atoms that ``n_sites`` inequivalent sites make."""
        chosen = self.fixed[:n_sites]
        return sum(chosen) + self.free * (n_sites - len(chosen))


def smallest_orbits(number: int) -> SmallestOrbits:
    """Return the smallest orbits of a space group, in the primitive cell."""
    entry = _table()[str(number)]
    return SmallestOrbits(tuple(entry["fixed"]), int(entry["free"]))


def computed_orbits(number: int) -> SmallestOrbits:
    """Work out the smallest orbits of a space group from its operations."""
    group = space_group(number)
    free = group.smallest_free_multiplicity
    return SmallestOrbits(tuple(m for m in group.fixed_multiplicities if m < free), free)


@cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads(_TABLE.read_text())
    return table


def main(target: Path) -> None:
    """Compute the table of all groups."""
    lines = []
    for number in range(LOWEST_SPACE_GROUP, HIGHEST_SPACE_GROUP + 1):
        orbits = computed_orbits(number)
        entry = {"fixed": orbits.fixed, "free": orbits.free}
        lines.append(f'"{number}": {json.dumps(entry)}')
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
