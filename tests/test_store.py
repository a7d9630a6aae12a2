"""The results directory: columns, round trips, and what a crash or a foreign directory does."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from small_results import write_candidates

from screening.campaign import Campaign
from screening.errors import RunError, UserError
from screening.files import LocalFiles
from screening.grid import Unit, units
from screening.object_store import RemoteFiles
from screening.schema import (
    CANDIDATE_SCHEMA,
    SAMPLE_SCHEMA,
    STRUCTURE_COLUMNS,
    structure_columns,
    structure_from_row,
    table_from_rows,
)
from screening.store import Store

if TYPE_CHECKING:
    from pathlib import Path

# The columns that the design promises, in its words.
SAMPLE_COLUMNS = [
    "sample_id",
    "unit_id",
    "seed",
    "chemical_system",
    "elements",
    "nsites",
    "chemical_formula_reduced",
    "chemical_formula_anonymous",
    "lattice_vectors",
    "cartesian_site_positions",
    "species_at_sites",
    "space_group_requested",
    "space_group_it_number",
    "site_counts",
    "wyckoff_letters",
    "generator",
    "status",
    "reason",
    "error",
]
CANDIDATE_COLUMNS = [
    "energy",
    "energy_per_atom",
    "formation_energy_per_atom",
    "e_above_hull",
    "e_above_hull_self",
    "hull_source",
    "converged",
    "n_steps",
    "max_force",
    "group_id",
    "is_representative",
    "n_duplicates",
    "matched_reference_id",
    "is_novel",
    "smact_valid",
    "calculator",
    "cif",
    "min_distance_ratio",
    "density",
    "volume_per_atom",
    "dimensionality",
    "space_group_kept",
    "novelty_basis",
    "rescored_calculator",
    "rescored_energy_per_atom",
    "rescored_formation_energy_per_atom",
    "rescored_e_above_hull",
    "rescored_converged",
    "rescored_error",
    "rescored_cif",
    "rescored_duplicate_of",
    "rescored_matched_reference_id",
]

CAMPAIGN = Campaign.from_mapping(
    {
        "name": "store",
        "chemical_systems": ["Cu-K-Si", "Cu-K"],
        "space_groups": [62],
        "sites": {"per_element": [1], "total_max": 3},
        "samples_per_cell": 5,
        "generator": {"unit_size": 3},
    }
)
FINGERPRINT = CAMPAIGN.fingerprint({"model": "m"})
ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()


def sample_row(unit: Unit, position: int, **changes: Any) -> dict[str, Any]:
    return {
        "sample_id": unit.sample_id(position),
        "unit_id": unit.unit_id,
        "seed": unit.seed(position),
        "chemical_system": unit.cell.chemical_system,
        "space_group_requested": unit.cell.space_group,
        "site_counts": unit.cell.site_counts_label,
        "generator": "m/default",
        "status": "kept",
        **structure_columns(ROCK_SALT),
        **changes,
    }


def write(store: Store, unit: Unit) -> None:
    rows = [sample_row(unit, position) for position in range(unit.count)]
    rows[0] |= {"status": "filtered", "reason": "min_distance 0.31 Å < 0.5 Å"}
    candidates = [{**row, "energy": -1.5, "converged": True} for row in rows[1:]]
    store.write_unit(unit, rows, candidates, seconds={"sampling": 1.5})


def started(store: Store) -> Store:
    store.initialise(CAMPAIGN.resolved(), FINGERPRINT, {"model": "m"})
    return store


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return started(Store(str(tmp_path / "results")))
    # Arrow's filesystem in memory: what the store does with s3:// and gs://, without a service.
    files = RemoteFiles(pyarrow.fs._MockFileSystem(), "bucket/results")
    return started(Store("s3://bucket/results", files))


def test_columns_are_the_documented_ones() -> None:
    assert SAMPLE_SCHEMA.names == SAMPLE_COLUMNS
    assert CANDIDATE_SCHEMA.names == SAMPLE_COLUMNS + CANDIDATE_COLUMNS


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("lattice_vectors", "Å"),
        ("cartesian_site_positions", "Å"),
        ("energy", "eV"),
        ("e_above_hull", "eV/atom"),
        ("max_force", "eV/Å"),
    ],
)
def test_units_stand_in_the_metadata(column: str, unit: str) -> None:
    assert CANDIDATE_SCHEMA.field(column).metadata[b"unit"].decode() == unit


def test_columns_of_a_known_crystal() -> None:
    columns = structure_columns(ROCK_SALT)
    assert tuple(columns) == STRUCTURE_COLUMNS
    assert columns["elements"] == ["Cl", "Na"]
    assert columns["nsites"] == 2
    assert columns["chemical_formula_reduced"] == "ClNa"
    assert columns["chemical_formula_anonymous"] == "AB"
    assert columns["space_group_it_number"] == 225
    assert sorted(columns["wyckoff_letters"]) == ["a", "b"]


def test_formula_is_reduced_and_alphabetical() -> None:
    # OPTIMADE: elements alphabetical, proportions in lowest terms, no 1.
    structure = Structure(
        Lattice.cubic(9),
        ["Si", "O", "O", "O", "O", "Si", "Cu"] * 2,
        np.random.default_rng(0).random((14, 3)),
    )
    assert structure_columns(structure)["chemical_formula_reduced"] == "CuO4Si2"


def test_crystal_that_spglib_cannot_place_has_no_group() -> None:
    clash = Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0], [0, 0, 1e-6]])
    columns = structure_columns(clash)
    assert columns["space_group_it_number"] is None
    assert columns["nsites"] == 2


@examples(deadline=None)
@given(
    st.lists(st.floats(2.0, 15.0), min_size=3, max_size=3),
    st.lists(
        st.tuples(st.sampled_from(["Cu", "K", "Si"]), *[st.floats(0, 0.999)] * 3),
        min_size=1,
        max_size=6,
    ),
)
def test_crystal_comes_back_exactly(
    lengths: list[float], atoms: list[tuple[str, float, float, float]]
) -> None:
    structure = Structure(
        Lattice.hexagonal(lengths[0], lengths[2]), [a[0] for a in atoms], [a[1:] for a in atoms]
    )
    schema = pa.schema([SAMPLE_SCHEMA.field(name) for name in STRUCTURE_COLUMNS])
    row = table_from_rows([structure_columns(structure)], schema).to_pylist()[0]
    back = structure_from_row(row)
    assert np.array_equal(back.lattice.matrix, structure.lattice.matrix)
    assert row["cartesian_site_positions"] == structure.cart_coords.tolist()
    assert np.allclose(back.cart_coords, structure.cart_coords, atol=1e-12)
    assert [s.specie.symbol for s in back] == [a[0] for a in atoms]


def test_failed_row_holds_no_crystal() -> None:
    with pytest.raises(ValueError, match="sample x has no structure"):
        structure_from_row({"sample_id": "x", "lattice_vectors": None})


def test_row_with_a_foreign_column_is_refused() -> None:
    with pytest.raises(ValueError, match="no column 'energy'"):
        table_from_rows([{"status": "kept", "energy": 1.0}], SAMPLE_SCHEMA)
    with pytest.raises(ValueError, match="status must be one of"):
        table_from_rows([{"status": "dropped"}], SAMPLE_SCHEMA)


def test_units_are_stored_and_marked(store: Store) -> None:
    first, second, *_ = units(CAMPAIGN)
    write(store, first)
    assert list(store.finished_units()) == [first.unit_id]
    write(store, second)
    mark = store.finished_units()[first.unit_id]
    assert (mark["state"], mark["samples"], mark["kept"]) == ("done", 3, 2)
    assert (mark["filtered"], mark["failed"], mark["relaxed"]) == (1, 0, 2)
    assert mark["seconds"] == {"sampling": 1.5}
    samples = store.read_samples()
    assert samples.schema.names == SAMPLE_COLUMNS
    assert sorted(samples["sample_id"].to_pylist()) == first.sample_ids + second.sample_ids
    assert store.read_relaxed(columns=["energy"])["energy"].to_pylist() == [-1.5] * 3
    store.ledger.remove(first.unit_id)
    assert list(store.finished_units()) == [second.unit_id]
    assert store.read_samples().num_rows == second.count


def test_failed_unit_is_stored_with_its_error(store: Store) -> None:
    unit = next(iter(units(CAMPAIGN)))
    rows = [
        {
            **sample_row(unit, position, status="failed", error="ValueError: no"),
            **dict.fromkeys(STRUCTURE_COLUMNS),
        }
        for position in range(unit.count)
    ]
    store.write_unit(unit, rows, [], state="failed", attempts=3, error="ValueError: no")
    mark = store.finished_units()[unit.unit_id]
    assert (mark["state"], mark["attempts"], mark["failed"]) == ("failed", 3, unit.count)
    assert store.read_samples()["error"].to_pylist() == ["ValueError: no"] * unit.count
    assert store.read_relaxed().num_rows == 0


@pytest.mark.parametrize("fault", ["missing", "twice", "foreign", "not relaxed"])
def test_no_row_is_lost(store: Store, fault: str) -> None:
    first, second, *_ = units(CAMPAIGN)
    rows = [sample_row(first, position) for position in range(first.count)]
    samples = {
        "missing": rows[1:],
        "twice": [*rows, rows[0]],
        "foreign": [*rows[1:], sample_row(second, 0)],
        "not relaxed": rows,
    }[fault]
    candidates = rows[1:] if fault == "not relaxed" else samples
    with pytest.raises(ValueError, match=f"unit {first.unit_id} must have one row for each"):
        store.write_unit(first, samples, candidates)
    assert store.finished_units() == {}


def test_pandas_reads_the_directory_as_one_tidy_frame(tmp_path: Path) -> None:
    store = started(Store(str(tmp_path / "results")))
    for unit in units(CAMPAIGN):
        write(store, unit)
    # What an interrupted write leaves must not disturb a reader.
    (tmp_path / "results/samples/chemsys=Cu-K/.tmp-1").write_bytes(b"half")
    frame = pd.read_parquet(tmp_path / "results" / "samples")
    assert list(frame.columns) == [*SAMPLE_COLUMNS, "chemsys"]
    assert len(frame) == 10
    assert set(frame["chemical_system"]) == {"Cu-K", "Cu-K-Si"}
    row = frame.iloc[0]
    structure = Structure(
        row["lattice_vectors"].tolist(),
        row["species_at_sites"],
        row["cartesian_site_positions"].tolist(),
        coords_are_cartesian=True,
    )
    assert structure == ROCK_SALT


def test_parts_without_any_value_in_a_column_read_together(tmp_path: Path) -> None:
    store = started(Store(str(tmp_path / "results")))
    first, second, *_ = units(CAMPAIGN)
    write(store, first)
    empty = [
        {**sample_row(second, i, status="failed", error="x"), **dict.fromkeys(STRUCTURE_COLUMNS)}
        for i in range(second.count)
    ]
    store.write_unit(second, empty, [])
    frame = pd.read_parquet(tmp_path / "results" / "samples")
    assert len(frame) == first.count + second.count


def test_fingerprints_stand_in_the_files(tmp_path: Path) -> None:
    store = started(Store(str(tmp_path / "results")))
    write(store, next(iter(units(CAMPAIGN))))
    part = next((tmp_path / "results" / "samples").rglob("*.parquet"))
    metadata = pq.read_schema(part).metadata
    assert metadata[b"fingerprint.campaign"].decode() == FINGERPRINT
    assert metadata[b"fingerprint.model"] == b"m"


def test_candidates_are_written_and_read(store: Store) -> None:
    with pytest.raises(UserError, match=r"has no candidates\.parquet yet; `screening resume"):
        store.candidates()
    row = {**sample_row(next(iter(units(CAMPAIGN))), 0), "e_above_hull": 0.01}
    write_candidates(store, [row])
    assert store.candidates().to_pylist()[0]["e_above_hull"] == 0.01
    store.write_candidates([store.candidates()])
    assert store.candidates().num_rows == 1


def test_other_files(store: Store) -> None:
    store.write_json("_progress.json", {"done": 1})
    assert store.read_json("_progress.json") == {"done": 1}
    assert store.read_json("absent.json") is None
    store.write_text("cif/1.cif", "data_")
    assert store.files.names("cif") == ["1.cif"]
    store.write_table("references/Cu.parquet", pa.table({"a": [1]}))
    table = store.read_table("references/Cu.parquet")
    assert table is not None
    assert table["a"].to_pylist() == [1]
    assert store.read_table("references/K.parquet") is None


def test_campaign_comes_back(store: Store) -> None:
    assert store.campaign() == CAMPAIGN
    assert store.fingerprints == {"campaign": FINGERPRINT, "model": "m"}
    started(store)  # a second start finds its own campaign


def test_directory_of_another_campaign_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match=rf"holds another campaign \(fingerprint {FINGERPRINT}"):
        store.initialise(CAMPAIGN.resolved(), "0" * 16)


def test_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"is not empty and holds no results \(it has 'thesis.tex'"):
        started(Store(str(tmp_path)))


def test_file_of_the_user_with_the_campaign_s_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and holds no results"):
        started(Store(str(tmp_path)))
    assert (tmp_path / "campaign.yaml").read_text() == "mine"


def test_start_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    started(Store(str(tmp_path)))
    (tmp_path / "fingerprints.json").unlink()
    assert started(Store(str(tmp_path))).fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://host/x", "must be a path or start with s3:// or gs://"),
        ("", "must be a path"),
        ("a\0b", "must be a path"),
    ],
)
def test_place_of_an_unknown_kind_is_refused(uri: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Store(uri)


def test_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(UserError, match="is a file; it must be a directory"):
        Store(str(path))


def test_place_that_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(UserError, match=r"output /proc/nowhere cannot be written to: No such"):
        started(Store("/proc/nowhere"))


def full_disk(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = started(Store(str(tmp_path / "results")))
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match=r"cannot be written: No space left on device"):
        write(store, next(iter(units(CAMPAIGN))))
    with pytest.raises(UserError, match=r"cannot be written to: No space left on device"):
        started(Store(str(tmp_path / "other")))
    monkeypatch.undo()
    assert store.finished_units() == {}
    assert store.sweep() == 0


def test_interrupted_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LocalFiles(tmp_path)
    files.write("a.json", b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write("a.json", b"new and longer")
    assert files.read("a.json") == b"old"
    assert files.names("") == ["a.json"]


def test_temporaries_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    store = started(Store(str(tmp_path)))
    write(store, next(iter(units(CAMPAIGN))))
    for directory in (tmp_path, tmp_path / "_done", tmp_path / "_candidates"):
        (directory / ".tmp-0123").write_bytes(b"half")
    assert list(store.finished_units()) == [next(iter(units(CAMPAIGN))).unit_id]
    assert store.sweep() == 3
    assert not list(tmp_path.rglob(".tmp-*"))


def test_rows_without_a_mark_do_not_count(tmp_path: Path) -> None:
    store = started(Store(str(tmp_path)))
    unit = next(iter(units(CAMPAIGN)))
    write(store, unit)
    (tmp_path / "_done" / f"{unit.unit_id}.json").unlink()
    assert store.read_samples().num_rows == 0
    (tmp_path / "_done" / f"{unit.unit_id}.json").write_text("{half")
    assert store.finished_units() == {}


def test_damaged_table_is_named(tmp_path: Path) -> None:
    store = started(Store(str(tmp_path)))
    write(store, next(iter(units(CAMPAIGN))))
    part = next((tmp_path / "samples").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(RunError, match=rf"{part.name} is damaged"):
        store.read_samples()


def test_directory_without_a_campaign_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no campaign; `screening run` makes"):
        Store(str(tmp_path)).campaign()
