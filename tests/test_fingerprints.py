"""Fingerprints of crystals, against matminer's own and against CHGNet's own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.core.local_env import CrystalNN

from screening.calculators import CHGNetPotential
from screening.chgnet_calculator import CHGNetCalculator
from screening.evaluation import fingerprints
from screening.evaluation.fingerprints import composition_fingerprint, structure_fingerprint
from screening.evaluation.stages import FINGERPRINT_SCHEMA, FingerprintStage, is_valid
from screening.schema import STRUCTURE_COLUMNS, structure_columns

MATMINER: dict[str, Any] = json.loads(
    (Path(__file__).parent / "matminer_fingerprints.json").read_text()
)["crystals"]


def spread(group: str, lattice: Lattice, sites: dict[str, list[float]]) -> Structure:
    crystal = Structure.from_spacegroup(group, lattice, list(sites), list(sites.values()))
    return crystal.get_primitive_structure()


KNOWN = {
    "rock salt NaCl": spread("Fm-3m", Lattice.cubic(5.69), {"Na": [0, 0, 0], "Cl": [0.5] * 3}),
    "diamond C": spread("Fd-3m", Lattice.cubic(3.567), {"C": [0, 0, 0]}),
    "perovskite SrTiO3": spread(
        "Pm-3m", Lattice.cubic(3.94), {"Sr": [0, 0, 0], "Ti": [0.5] * 3, "O": [0.5, 0.5, 0]}
    ),
    "wurtzite ZnO": spread(
        "P6_3mc",
        Lattice.hexagonal(3.29, 5.31),
        {"Zn": [1 / 3, 2 / 3, 0], "O": [1 / 3, 2 / 3, 0.379]},
    ),
    "rutile TiO2": spread(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), {"Ti": [0, 0, 0], "O": [0.305, 0.305, 0]}
    ),
    "argon Ar": spread("Fm-3m", Lattice.cubic(5.26), {"Ar": [0, 0, 0]}),
}


def labels() -> list[str]:
    shapes = fingerprints._SHAPES
    return [
        f"{name} CN_{number}" for number in range(1, 25) for name in ("wt", *shapes.get(number, ()))
    ]


@pytest.mark.parametrize("name", KNOWN)
def test_structure_fingerprint_is_that_of_matminer(name: str) -> None:
    expected = [MATMINER[name]["structure"].get(label, 0.0) for label in labels()]
    found = structure_fingerprint(KNOWN[name])
    assert found.shape == (fingerprints.N_STRUCTURE,)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("name", KNOWN)
def test_composition_fingerprint_is_that_of_matminer(name: str) -> None:
    found = composition_fingerprint(KNOWN[name].composition)
    assert found.shape == (fingerprints.N_COMPOSITION,)
    np.testing.assert_allclose(found, MATMINER[name]["composition"], rtol=1e-9, atol=1e-9)


def test_octahedra_and_tetrahedra_are_seen_for_what_they_are() -> None:
    rock_salt = dict(zip(labels(), structure_fingerprint(KNOWN["rock salt NaCl"]), strict=True))
    diamond = dict(zip(labels(), structure_fingerprint(KNOWN["diamond C"]), strict=True))
    assert rock_salt["octahedral CN_6"] == pytest.approx(1.0, abs=1e-3)
    assert diamond["tetrahedral CN_4"] == pytest.approx(1.0, abs=1e-3)


def test_composition_statistics_worked_by_hand() -> None:
    # Atomic numbers of Al2O3: 8 and 13, mean (2 x 13 + 3 x 8) / 5 = 10, and O is the mode.
    first = composition_fingerprint(Composition("Al2O3"))[:6]
    assert first.tolist() == pytest.approx([8, 13, 5, 10, (2 * 3 + 3 * 2) / 5, 8])


def test_equivalent_sites_are_looked_at_once_without_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[int] = []
    look = CrystalNN.get_nn_data

    def noted(self: CrystalNN, structure: Structure, n: int) -> Any:
        looked_at.append(n)
        return look(self, structure, n)

    monkeypatch.setattr(CrystalNN, "get_nn_data", noted)
    crystal = KNOWN["rutile TiO2"]
    found = structure_fingerprint(crystal)
    assert len(looked_at) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sites = [fingerprints._site_fingerprint(crystal, site) for site in range(6)]
    np.testing.assert_allclose(found, np.mean(sites, axis=0), atol=1e-9)


def test_fingerprints_do_not_depend_on_the_cell_or_the_order_of_atoms() -> None:
    crystal = KNOWN["perovskite SrTiO3"]
    doubled = crystal * (1, 1, 2)
    turned = Structure.from_sites(list(doubled)[::-1])
    np.testing.assert_allclose(
        structure_fingerprint(turned), structure_fingerprint(crystal), atol=1e-7
    )
    np.testing.assert_allclose(
        composition_fingerprint(turned.composition), composition_fingerprint(crystal.composition)
    )


def test_an_element_beyond_the_tables_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Magpie's tables have no element Fm"):
        composition_fingerprint(Composition("FmO"))


@pytest.fixture(scope="module")
def stage() -> FingerprintStage:
    stage = FingerprintStage()
    stage.setup()
    return stage


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_embedding_is_the_one_that_chgnet_gives() -> None:
    potential = CHGNetPotential().ase()
    assert isinstance(potential, CHGNetCalculator)
    crystal = KNOWN["wurtzite ZnO"]
    own = potential.model.predict_structure(crystal, task="e", return_crystal_feas=True)
    expected = np.asarray(own["crystal_fea"]).reshape(-1)
    assert expected.std() > 0
    np.testing.assert_allclose(potential.embedding(crystal), expected, rtol=1e-5, atol=1e-6)


def test_the_stage_describes_each_crystal_and_says_what_is_wrong(stage: FingerprintStage) -> None:
    good = structure_columns(KNOWN["rock salt NaCl"])
    close = structure_columns(
        Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.05, 0.05, 0.05]])
    )
    flat = structure_columns(
        Structure(np.diag([4.0, 4.0, 1e-3]), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
    )
    failed = {**dict.fromkeys(STRUCTURE_COLUMNS), "error": "sampling diverged"}
    rows = stage([good, close, flat, failed])
    assert [set(row) for row in rows] == [set(FINGERPRINT_SCHEMA.names)] * 4
    assert [row["valid"] for row in rows] == [True, False, False, False]
    assert [row["smact_valid"] for row in rows] == [True, True, False, False]
    assert rows[0]["error"] is None
    assert len(rows[0]["structure"]) == fingerprints.N_STRUCTURE
    assert len(rows[0]["embedding"]) == 64
    # Atoms 0.35 angstrom apart still have surroundings, but no potential means anything there.
    assert rows[1]["structure"] is not None
    assert rows[1]["embedding"] is None
    assert rows[2]["structure"] is None
    assert "the cell is flat" in rows[2]["error"]
    assert rows[3]["error"] == "sampling diverged"
    assert stage([]) == []


def test_validity_begins_at_half_an_angstrom() -> None:
    def chain(distance: float) -> Structure:
        return Structure(np.diag([distance, 9.0, 9.0]), ["H"], [[0.0, 0.0, 0.0]])

    assert is_valid(chain(0.51))
    assert not is_valid(chain(0.49))
