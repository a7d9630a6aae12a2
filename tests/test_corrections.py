"""Corrections of computed energies: the published amounts, by hand, and pymatgen's own result."""

from __future__ import annotations

import copy

import pytest
from pymatgen.core import Lattice, Structure

from screening.corrections import mp2020_correction

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
MAGNESIA = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.25), ["Mg", "O"], [[0] * 3, [0.5] * 3]
)
NICKEL_OXIDE = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.2), ["Ni", "O"], [[0] * 3, [0.5] * 3]
)
NICKEL_FLUORIDE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.7, 3.1), ["Ni", "F"], [[0, 0, 0], [0.304, 0.304, 0]]
)
NICKEL_SULFIDE = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(3.44, 5.35), ["Ni", "S"], [[0, 0, 0], [1 / 3, 2 / 3, 1 / 4]]
)
BARIUM_PEROXIDE = Structure.from_spacegroup(
    "I4/mmm", Lattice.tetragonal(3.82, 6.85), ["Ba", "O"], [[0, 0, 0], [0, 0, 0.392]]
)
NICKEL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.5), ["Ni"], [[0, 0, 0]])
ALLOY = Structure(Lattice.cubic(2.88), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])

# Wang et al., Scientific Reports 11, 15496 (2021), table 2: eV per atom.
CHLORIDE, OXIDE, PEROXIDE, FLUORIDE, SULFIDE = -0.614, -0.687, -0.465, -0.462, -0.503
NICKEL_WITH_U = -2.541


@pytest.mark.parametrize(
    ("structure", "per_formula_unit"),
    [
        (SALT, CHLORIDE),
        (MAGNESIA, OXIDE),
        (NICKEL_OXIDE, OXIDE + NICKEL_WITH_U),
        (NICKEL_FLUORIDE, 2 * FLUORIDE + NICKEL_WITH_U),
        (NICKEL_SULFIDE, SULFIDE),  # no U without oxygen or fluorine
        (BARIUM_PEROXIDE, 2 * PEROXIDE),  # told from an oxide by its bonds
        (NICKEL, 0.0),
        (ALLOY, 0.0),
    ],
)
def test_corrections_are_the_published_ones(structure: Structure, per_formula_unit: float) -> None:
    before = copy.deepcopy(structure)
    _, formula_units = structure.composition.get_reduced_composition_and_factor()
    assert mp2020_correction(structure) == pytest.approx(per_formula_unit * formula_units, abs=1e-9)
    assert structure == before


def test_the_correction_is_extensive() -> None:
    assert mp2020_correction(NICKEL_OXIDE * (1, 1, 2)) == pytest.approx(
        2 * mp2020_correction(NICKEL_OXIDE)
    )


def test_formulas_whose_oxidation_states_are_unknown_are_corrected_without_a_warning() -> None:
    odd = Structure(Lattice.cubic(5), ["Na", "Cl"] + ["Cl"] * 4, [[i / 6] * 3 for i in range(6)])
    assert mp2020_correction(odd) == pytest.approx(5 * CHLORIDE)
