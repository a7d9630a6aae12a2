"""Reference phases: structure types, what is relaxed and kept, and files of the user's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spglib
from pymatgen.core import Composition, Element, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from screening.campaign import Campaign
from screening.chemistry import HEAVIEST_ATOMIC_NUMBER
from screening.deduplication import match_references
from screening.errors import UserError
from screening.hull import place_on_hull
from screening.prototypes import Prototype, phases, prototypes, prototypes_fingerprint
from screening.reference_file import CRYSTAL
from screening.references import (
    REFERENCE_SCHEMA,
    References,
    elements_of,
    reference_rows,
    subsystems,
)
from screening.relaxation import RelaxationStage
from screening.store import Store

if TYPE_CHECKING:
    from pathlib import Path

EMT_NAME = "ase.calculators.emt:EMT"
ALL_ELEMENTS = [Element.from_Z(z).symbol for z in range(1, HEAVIEST_ATOMIC_NUMBER + 1)]


def campaign(system: str = "Au-Cu", references: str = "auto") -> Campaign:
    return Campaign.from_mapping(
        {
            "name": "alloy",
            "chemical_systems": [system],
            "space_groups": [225],
            "sites": {"per_element": [1], "total_max": 3},
            "samples_per_cell": 1,
            "relaxation": {"calculator": EMT_NAME},
            "references": references,
        }
    )


def store_for(settings: Campaign, path: Path) -> Store:
    store = Store(str(path))
    store.initialise(settings.resolved(), "0" * 16)
    return store


class Relaxer:
    """Relaxes each phase with a real potential, once for all tests."""

    def __init__(self) -> None:
        self.stage = RelaxationStage(EMT_NAME, fmax=0.05, max_steps=200)
        self.stage.setup()
        self.known: dict[str, dict[str, Any]] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the relaxed row."""
        name = row["sample_id"]
        if name not in self.known:
            self.known[name] = self.stage(row)
        return self.known[name]


@pytest.fixture(scope="module")
def emt() -> Relaxer:
    return Relaxer()


def finished(settings: Campaign, store: Store, emt: Relaxer) -> References:
    references = References(settings, store)
    for row in references.missing():
        references.add(emt(row))
    return references


# Structure types ------------------------------------------------------------------------------


@pytest.mark.parametrize("prototype", prototypes(), ids=lambda p: p.name)
def test_a_structure_type_is_what_it_says(prototype: Prototype) -> None:
    structure = prototype.decorated(prototype.elements)
    cell = (
        structure.lattice.matrix,
        structure.frac_coords,
        [site.specie.Z for site in structure],
    )
    assert spglib.get_symmetry_dataset(cell, symprec=0.01).number == prototype.space_group
    formula = prototype.name.split()[-1]
    assert structure.composition.reduced_formula == Composition(formula).reduced_formula
    # No two atoms closer than 1.9 radii would allow, molecules aside.
    shortest = structure.get_neighbor_list(6.0)[3].min()
    assert shortest > (0.7 if "of" in prototype.use else 1.5)
    assert len(structure) <= (32 if "of" in prototype.use else 16)


@pytest.mark.parametrize(
    "prototype", [p for p in prototypes() if len(p.elements) > 1], ids=lambda p: p.name
)
def test_only_elements_marked_as_equivalent_may_be_exchanged(prototype: Prototype) -> None:
    symbols = prototype.elements
    exchanged = (symbols[1], symbols[0], *symbols[2:])
    one, other = prototype.decorated(symbols), prototype.decorated(exchanged)
    same = StructureMatcher().fit(one, other)
    if "swap" in prototype.use:
        assert same
    elif one.composition.reduced_formula != other.composition.reduced_formula:
        assert not same


@pytest.mark.parametrize("symbol", ALL_ELEMENTS)
def test_every_element_has_a_ground_state_to_try(symbol: str) -> None:
    found = dict(phases(symbol))
    assert found
    for structure in found.values():
        assert {site.specie.symbol for site in structure} == {symbol}
    if symbol in ("H", "N", "O", "F", "Cl", "Br", "I"):
        assert list(found) in (["molecules"], ["A14"])
    else:
        assert {"A1", "A2", "A3"} <= set(found)


@pytest.mark.parametrize(
    ("system", "present", "absent"),
    [
        ("Cl-Na", "B1 [Cl-Na]", "B33 [Na-Cl]"),
        ("O-Ti", "C4 [Ti-O]", "C4 [O-Ti]"),
        ("Cu-Mg", "C15 [Mg-Cu]", "C15 [Cu-Mg]"),
        ("Al-Ni", "L1_2 [Al-Ni]", "B4 [Al-Ni]"),
        ("Li-O", "C1 [O-Li]", "L1_2 [O-Li]"),
        ("O-Sr-Ti", "E2_1 [Sr-Ti-O]", "tI10 [Ti-O-Sr]"),
    ],
)
def test_structure_types_follow_chemical_sense(system: str, present: str, absent: str) -> None:
    names = {designation for designation, _ in phases(system)}
    assert present in names
    assert absent not in names


@pytest.mark.parametrize("system", ["Cu-K", "Cu-K-Si", "Cl-Na-O", "Al-Ni", "Fe-Sn-Ta"])
def test_phases_are_different_and_named_once(system: str) -> None:
    found = list(phases(system))
    counts = Counter(row["sample_id"] for row in reference_rows(system))
    assert max(counts.values()) == 1
    assert {tuple(sorted(e.symbol for e in s.elements)) for _, s in found} == {
        tuple(system.split("-"))
    }
    volumes = [s.volume / len(s) for _, s in found]
    assert min(volumes) > 5
    assert all(s.get_neighbor_list(1.2)[3].size == 0 for _, s in found)


def test_subsystems_are_those_of_all_systems_once() -> None:
    assert subsystems(["Cu-K-Si", "Cu-K-P"]) == [
        *("Cu", "K", "P", "Si"),
        *("Cu-K", "Cu-P", "Cu-Si", "K-P", "K-Si"),
        *("Cu-K-P", "Cu-K-Si"),
    ]
    assert len(subsystems(["Al-Cu-K-P-Si"])) == 5 + 10 + 10
    assert elements_of(["Cu-K", "K"]) == ("Cu", "K")


# Relaxing and keeping ---------------------------------------------------------------------------


def test_phases_are_relaxed_stored_and_found_again(
    tmp_path: Path, emt: Relaxer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = campaign()
    store = store_for(settings, tmp_path / "out")
    references = References(settings, store)
    todo = list(references.missing())
    assert (
        references.total == len(todo) == sum(len(reference_rows(s)) for s in ("Au", "Cu", "Au-Cu"))
    )
    assert [row["chemical_system"] for row in todo] == sorted(
        (row["chemical_system"] for row in todo), key=lambda s: (s.count("-"), s)
    )
    half = [row for row in todo if row["chemical_system"] in ("Au", "Cu")]
    for row in half:
        references.add(emt(row))
    assert references.done == len(half)
    assert references.source == "prototypes"

    again = References(settings, store)  # the run was interrupted here
    left = list(again.missing())
    assert [row["sample_id"] for row in left] == [row["sample_id"] for row in todo[len(half) :]]
    assert (again.done, again.total) == (len(half), len(todo))
    for row in reversed(left):  # workers finish in any order
        again.add(emt(row))
    assert list(again.missing()) == []
    monkeypatch.setattr("screening.references.phases", lambda _: 1 / 0)
    stored = References(settings, store)
    assert stored.rows("Au-Cu") == again.rows("Au-Cu")

    table = store.read_table("references/Au-Cu.parquet")
    assert table is not None
    assert table.schema.remove_metadata().equals(REFERENCE_SCHEMA.remove_metadata())
    assert table.column("reference_id").to_pylist() == [row["sample_id"] for row in left]


def test_the_hull_of_structure_types_finds_the_ground_states(tmp_path: Path, emt: Relaxer) -> None:
    """EMT was made for fcc metals, and for the ordered alloys of copper and gold."""
    settings = campaign()
    rows = finished(settings, store_for(settings, tmp_path / "out"), emt).rows("Au-Cu")
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -row["energy_per_atom"]):
        best[row["formula"]] = row
    close_packed = {"A1", "A3", "A3'", "C19"}
    assert best["Cu"]["reference_id"].split()[1] in close_packed
    assert best["Au"]["reference_id"].split()[1] in close_packed
    assert best["AuCu3"]["reference_id"].split()[1] in {"L1_2", "D0_22", "D0_a", "D0_19"}
    known = [{**row, "status": "kept", "sample_id": row["reference_id"]} for row in best.values()]
    placed = place_on_hull(known, rows)
    assert min(row["e_above_hull"] for row in placed) == pytest.approx(0, abs=1e-6)
    assert {row["formula"] for row in placed if row["e_above_hull"] < 1e-6} >= {"Cu", "Au", "AuCu3"}


def test_a_phase_that_cannot_be_relaxed_is_recorded_and_left_out(
    tmp_path: Path, emt: Relaxer
) -> None:
    settings = campaign("Cu")
    store = store_for(settings, tmp_path / "out")
    references = References(settings, store)
    rows = list(references.missing())
    references.add({**rows[0], "status": "failed", "error": "relaxation: exploded"})
    for row in rows[1:]:
        references.add(emt(row))
    assert rows[0]["sample_id"] not in {row["reference_id"] for row in references.rows("Cu")}
    table = store.read_table("references/Cu.parquet")
    assert table is not None
    first = table.to_pylist()[0]
    assert (first["energy_per_atom"], first["error"]) == (None, "relaxation: exploded")


# Files ------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_file_of_energies_needs_no_relaxation(tmp_path: Path) -> None:
    file = write(
        tmp_path / "known.csv", "formula,energy_per_atom\nCu,-1.0\nAu,-3.0\nCuAu,-2.5\nPd,-2\n"
    )
    settings = campaign(references=file)
    store = store_for(settings, tmp_path / "out")
    references = References(settings, store)
    assert list(references.missing()) == []
    assert (references.total, references.source) == (0, "known.csv")
    rows = references.rows("Au-Cu")
    assert [(row["reference_id"], row["formula"]) for row in rows] == [
        ("known-1", "Cu"),
        ("known-2", "Au"),
        ("known-3", "CuAu"),
    ]
    assert {row["source"] for row in rows} == {"known.csv"}
    stored = store.read_table("references/file.parquet")
    assert stored is not None
    assert stored.column("formula").to_pylist() == ["Cu", "Au", "CuAu", "Pd"]


def test_a_file_of_formation_energies_takes_the_elements_from_the_potential(
    tmp_path: Path, emt: Relaxer
) -> None:
    path = tmp_path / "known.parquet"
    columns = {
        "reference_id": ["mp-1", "mp-2"],
        "formula": ["Cu3Au", "CuAu"],
        "formation_energy_per_atom": [-0.05, -0.06],
    }
    pq.write_table(pa.table(columns), path)
    settings = campaign(references=str(path))
    references = finished(settings, store_for(settings, tmp_path / "out"), emt)
    rows = {row["reference_id"]: row for row in references.rows("Au-Cu")}
    lowest = {
        symbol: min(r["energy_per_atom"] for r in rows.values() if r["formula"] == symbol)
        for symbol in ("Au", "Cu")
    }
    expected = -0.05 + (3 * lowest["Cu"] + lowest["Au"]) / 4
    assert rows["mp-1"]["energy_per_atom"] == pytest.approx(expected)
    candidate = {
        "sample_id": "a",
        "status": "kept",
        "chemical_system": "Au-Cu",
        "chemical_formula_reduced": "AuCu3",
        "energy_per_atom": expected,
    }
    (placed,) = place_on_hull([candidate], references.rows("Au-Cu"), references.source)
    assert placed["formation_energy_per_atom"] == pytest.approx(-0.05)
    assert placed["e_above_hull"] == pytest.approx(0, abs=1e-9)


def test_a_file_may_hold_crystals(tmp_path: Path) -> None:
    crystals = {row["sample_id"]: row for row in reference_rows("Cu")}
    rows = [
        {"formula": "Cu", "energy_per_atom": -1.0, **_crystal(crystals["Cu A1"])},
        {"formula": "Au", "energy_per_atom": -3.0},
    ]
    path = tmp_path / "known.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    settings = campaign(references=str(path))
    references = References(settings, store_for(settings, tmp_path / "out"))
    copper, gold = references.rows("Au-Cu")
    assert copper["space_group_it_number"] == 225
    assert copper["lattice_vectors"] == crystals["Cu A1"]["lattice_vectors"]
    assert gold.get("lattice_vectors") is None
    found = match_references(
        [{**crystals[name], "energy_per_atom": -1.0} for name in ("Cu A1", "Cu A2")], [copper]
    )
    assert [row["is_novel"] for row in found] == [False, True]

    rows[0]["formula"] = "Ag"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(UserError, match=r"the crystal of phase 1 is Cu, its formula 'Ag'; allowed"):
        References(settings, store_for(settings, tmp_path / "out"))


def _crystal(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in CRYSTAL}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", None, r"a.csv does not exist"),
        ("a.txt", "formula", r"a.txt'; allowed: .csv or .parquet files"),
        ("a.csv", "formula,energy\nCu,1\n", r"has the columns formula, energy; allowed: columns"),
        ("a.csv", "", r"a.csv cannot be read: "),
        ("a.parquet", "not parquet", r"a.parquet cannot be read: "),
        ("a.csv", "formula,energy_per_atom\nCu,-1\n", r"no phase of pure Au; energies need one"),
        ("a.csv", "formula,energy_per_atom\nCu,x\n", r"energy_per_atom of phase 1 is 'x'; allowed"),
        ("a.csv", "formula,energy_per_atom\nCu,\n", r"energy_per_atom of phase 1 is None; allowed"),
        ("a.csv", "formula,energy_per_atom\nXq3,1\n", r"formula of phase 1 is 'Xq3'; allowed"),
        ("a.csv", "formula,energy_per_atom\n,1\n", r"formula of phase 1 is ''; allowed"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    settings = campaign().model_copy(update={"references": str(path)})
    with pytest.raises(UserError, match=message):
        References(settings, store_for(campaign(), tmp_path / "out"))


def test_fingerprints_tell_reference_phases_apart(tmp_path: Path) -> None:
    assert References.fingerprint_of("auto") == References.fingerprint_of("prototypes")
    assert References.fingerprint_of("auto") == f"prototypes-{prototypes_fingerprint()}"
    one = References.fingerprint_of(write(tmp_path / "a.csv", "formula,energy_per_atom\nCu,-1\n"))
    other = References.fingerprint_of(write(tmp_path / "a.csv", "formula,energy_per_atom\nCu,-2\n"))
    assert one.startswith("file-")
    assert one != other
    with pytest.raises(UserError, match="does not exist"):
        References.fingerprint_of(str(tmp_path / "none.csv"))


def test_decorated_structures_have_the_volume_of_their_atoms() -> None:
    rock_salt = next(p for p in prototypes() if p.name == "B1 NaCl")
    own = rock_salt.decorated(("Na", "Cl"))
    assert own.volume == pytest.approx(5.64**3 / 4)
    other: Structure = rock_salt.decorated(("Mg", "O"))
    assert other.volume == pytest.approx(22.0 + 7.1)
    assert np.allclose(other.lattice.angles, 60)
