"""Exported crystals come back as what they were, under names that are safe anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Incar
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from small_results import write_candidates

from screening.campaign import Campaign
from screening.errors import RunError, UserError
from screening.export import cif_text, export_candidates, file_stem
from screening.schema import structure_columns
from screening.store import Store

# pymatgen's reader says that it took 0.33333333 for a third, and what its default is.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF:UserWarning"),
    pytest.mark.filterwarnings("ignore:The default value of primitive:UserWarning"),
]

CAMPAIGN = Campaign.from_mapping(
    {
        "name": "export",
        "chemical_systems": ["Cl-Na", "Cl-Cs"],
        "space_groups": [225],
        "sites": {"per_element": [1], "total_max": 2},
        "samples_per_cell": 1,
    }
)
ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()
CESIUM_CHLORIDE = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
WURTZITE = Structure.from_spacegroup(
    "P6_3mc",
    Lattice.hexagonal(3.82, 6.26),
    ["Zn", "S"],
    [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.3748]],
)


def candidate(
    name: str, structure: Structure, height: float | None, **changes: Any
) -> dict[str, Any]:
    return {
        "sample_id": name,
        "status": "kept",
        **structure_columns(structure),
        "e_above_hull": height,
        "energy": -6.5,
        "is_representative": True,
        "converged": True,
        "calculator": "chgnet",
        **changes,
    }


ROWS = [
    candidate("b-000", CESIUM_CHLORIDE, 0.05),
    candidate("a-000", ROCK_SALT, -0.01),
    candidate("a-001", ROCK_SALT, 0.0, is_representative=False),
    candidate("c-000", WURTZITE, 0.3),
    candidate("d-000", ROCK_SALT, None),
    candidate("e-000", CESIUM_CHLORIDE, -0.5, converged=False),
]
RANKED = [ROCK_SALT, CESIUM_CHLORIDE, WURTZITE]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "results"))
    store.initialise(CAMPAIGN.resolved(), CAMPAIGN.fingerprint({}))
    write_candidates(store, ROWS)
    return store


def test_best_are_distinct_placed_and_in_order(store: Store) -> None:
    assert store.best(columns=["sample_id"])["sample_id"].to_pylist() == ["a-000", "b-000", "c-000"]
    assert store.best(2).to_pylist() == [store.candidates().to_pylist()[i] for i in (1, 0)]


def test_equal_heights_are_ordered_by_name(store: Store) -> None:
    write_candidates(store, [candidate(name, ROCK_SALT, 0.1) for name in ("z", "x", "y")])
    assert store.best()["sample_id"].to_pylist() == ["x", "y", "z"]


@pytest.mark.parametrize("file_format", ["cif", "poscar", "extxyz"])
def test_files_hold_the_crystals_of_the_table(
    store: Store, tmp_path: Path, file_format: str
) -> None:
    paths = export_candidates(store, 3, file_format, tmp_path / "new" / "crystals")
    assert len(paths) == 3
    for path, expected in zip(paths, RANKED, strict=True):
        if file_format == "extxyz":
            atoms = ase.io.read(path, format="extxyz")
            found = Structure(atoms.cell[:], atoms.symbols, atoms.get_scaled_positions())
        else:
            found = Structure.from_str(path.read_text(), fmt=file_format)
        assert StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1).fit(found, expected)


def test_vasp_inputs_are_those_of_the_materials_project(store: Store, tmp_path: Path) -> None:
    directories = export_candidates(store, 2, "vasp", tmp_path / "vasp")
    assert [path.name for path in directories] == ["001_ClNa_225_a-000", "002_ClCs_221_b-000"]
    for directory, expected in zip(directories, RANKED, strict=False):
        files = {path.name for path in directory.iterdir()}
        assert files == {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"}
        poscar = Structure.from_file(directory / "POSCAR")
        assert StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1).fit(poscar, expected)
        # One pseudopotential for each element, in the order of the atoms.
        named = [name.split("_")[0] for name in (directory / "POTCAR.spec").read_text().split()]
        assert named == list(dict.fromkeys(site.specie.symbol for site in poscar))
        incar = Incar.from_file(directory / "INCAR")
        assert (incar["ENCUT"], incar["ISIF"]) == (520, 3)


def test_vasp_inputs_need_settings(store: Store, tmp_path: Path) -> None:
    polonium = Structure(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]])
    write_candidates(store, [candidate("p", polonium, 0.0)])
    with pytest.raises(UserError, match=r"has no settings for Po .*; allowed: cif, poscar"):
        export_candidates(store, 1, "vasp", tmp_path / "vasp")


def test_cif_has_the_group_of_the_table(store: Store, tmp_path: Path) -> None:
    paths = export_candidates(store, 3, "cif", tmp_path)
    for path, number, n_atoms in zip(paths, (225, 221, 186), (8, 2, 4), strict=True):
        text = path.read_text()
        assert re.search(rf"_symmetry_Int_Tables_number\s+{number}\b", text)
        # The conventional cell.
        found = Structure.from_str(text, fmt="cif")
        assert len(found) == n_atoms
        assert SpacegroupAnalyzer(found).get_space_group_number() == number


def test_primitive_cells_are_not_turned(store: Store, tmp_path: Path) -> None:
    path = export_candidates(store, 1, "extxyz", tmp_path)[0]
    atoms = ase.io.read(path)
    assert np.allclose(atoms.cell[:], ROCK_SALT.lattice.matrix, atol=1e-7)
    assert np.allclose(atoms.positions, ROCK_SALT.cart_coords, atol=1e-7)
    assert atoms.info["sample_id"] == "a-000"
    assert atoms.info["e_above_hull"] == -0.01


def test_crystal_without_symmetry_that_can_be_found_is_still_written() -> None:
    clash = Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0], [0, 0, 1e-6]])
    assert "_cell_length_a   3.0" in cif_text(clash)


def test_names_say_rank_formula_group_and_sample(store: Store, tmp_path: Path) -> None:
    names = [path.name for path in export_candidates(store, 2, "poscar", tmp_path)]
    assert names == ["001_ClNa_225_a-000.vasp", "002_ClCs_221_b-000.vasp"]


@examples(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300), st.integers(1, 10**6))
def test_names_are_safe(formula: str, sample: str, rank: int) -> None:
    row = {
        "chemical_formula_reduced": formula,
        "space_group_it_number": None,
        "sample_id": sample,
    }
    assert re.fullmatch(r"[0-9]{3,}_[A-Za-z0-9._+-]{1,240}", file_stem(rank, row))


def test_fewer_candidates_than_asked_for(store: Store, tmp_path: Path) -> None:
    assert len(export_candidates(store, 100, "cif", tmp_path)) == 3


@pytest.mark.parametrize(
    ("top", "file_format", "words"),
    [
        (0, "cif", "--top is 0; allowed: an integer from 1"),
        (1, "xyz", "--format is 'xyz'; allowed: cif, poscar, extxyz"),
    ],
)
def test_argument_that_is_not_allowed(
    store: Store, tmp_path: Path, top: int, file_format: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        export_candidates(store, top, file_format, tmp_path)


def test_target_that_is_a_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="allowed: a directory"):
            export_candidates(store, 1, "cif", target)


def test_target_that_cannot_be_written_to(store: Store) -> None:
    with pytest.raises(RunError, match="/proc/nowhere cannot be written to"):
        export_candidates(store, 1, "cif", Path("/proc/nowhere"))
