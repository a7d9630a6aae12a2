"""The Materials Project's corrections of computed energies, for potentials that were trained without.

Density functional theory with PBE has an error that grows with the number of anions, and PBE+U, which
the Materials Project takes for transition metals in oxides and fluorides, has another zero. Both are
mended by amounts per atom (Wang et al., Scientific Reports 11, 15496, 2021). They depend on the
formula, and for oxides and sulfides on the bonds between anions; they exert no forces.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

if TYPE_CHECKING:
    from pymatgen.core import Structure

_MOST_SITES = -20
"""For larger formula units oxidation states are not guessed, as in pymatgen."""


def mp2020_correction(structure: Structure) -> float:
    """Return what ``MaterialsProject2020Compatibility`` adds to the energy of a crystal's cell, eV.

    Args:
        structure: a crystal, treated as if it had been computed with ``MPRelaxSet``: with its
            Hubbard U where transition metals meet oxygen or fluorine. Elements have no correction.
    """
    formula = str(structure.composition.reduced_formula)
    hubbards = _hubbards(formula)
    entry = ComputedStructureEntry(
        structure,
        0.0,
        # POTCARs are only checked for what VASP has computed.
        parameters={
            "run_type": "GGA+U" if hubbards else "GGA",
            "hubbards": hubbards,
            "software": "potential",
        },
        data={"oxidation_states": dict(_oxidation_states(formula))},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where oxidation states could not be guessed
        adjustments = _scheme().get_adjustments(entry)
    return float(sum(adjustment.value for adjustment in adjustments))


def _hubbards(formula: str) -> dict[str, float]:
    """Return U (eV) by element, as ``MPRelaxSet`` has it, without zeros."""
    elements = sorted(Composition(formula).elements, key=lambda element: element.X)
    settings = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {})
    present = {element.symbol for element in elements}
    return {symbol: float(u) for symbol, u in settings.items() if symbol in present and u}


@cache
def _oxidation_states(formula: str) -> dict[str, float]:
    """Return the likeliest oxidation states by element; none where they cannot be guessed."""
    try:
        guesses = Composition(formula).oxi_state_guesses(max_sites=_MOST_SITES)
    except ValueError:
        return {}
    return dict(guesses[0]) if guesses else {}


@cache
def _scheme() -> Any:
    return MaterialsProject2020Compatibility()
