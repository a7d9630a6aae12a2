"""Relaxation: its free coordinates, its minimiser, the potentials, and the stage around them."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from crystals import BODY_CENTRED, BY_CENTRING, COTUNNITE, PEROVSKITE, ROCK_SALT, WURTZITE
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from model.crystal import AsymmetricUnit
from screening.calculators import SEVENNET_WEIGHTS, load_calculator
from screening.corrections import mp2020_correction
from screening.errors import UserError
from screening.free_coordinates import FreeCoordinates, free_coordinates
from screening.minimisation import Point, minimise
from screening.potential import ATOMS_AT_ONCE, OneByOne
from screening.relaxation import ExplodedError, RelaxationStage, Rival, relax
from screening.schema import structure_columns, structure_from_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

EMT_NAME = "ase.calculators.emt:EMT"


def coordinates_of(structure: Structure) -> FreeCoordinates:
    numbers = np.array([site.specie.Z for site in structure])
    return free_coordinates(structure.lattice.matrix, structure.frac_coords, numbers, 0.01)


def group_of(structure: Structure, symprec: float = 1e-4) -> int:
    cell = (
        structure.lattice.matrix,
        structure.frac_coords,
        [site.specie.Z for site in structure],
    )
    return int(spglib.get_symmetry_dataset(cell, symprec=symprec).number)


def alloy(number: int, lengths: list[float], sites: list[tuple[int, list[float]]]) -> Structure:
    numbers, points = zip(*sites, strict=True)
    return AsymmetricUnit(
        number, np.array(lengths), np.array(points), np.array(numbers)
    ).to_structure()


def row_of(structure: Structure, **columns: Any) -> dict[str, Any]:
    return {"sample_id": "a-000", "status": "kept", **structure_columns(structure), **columns}


LOW_SYMMETRY = alloy(36, [4.0, 6.0, 5.5], [(29, [0, 0.15, 0.02]), (79, [0.31, 0.2, 0.4])])

CLOSE_PACKED = alloy(
    59, [5.4, 4.1, 4.7], [(79, [0, 0, 0.62]), (29, [0, 0.5, 0.36]), (29, [0.23, 0, 0.13])]
)


@pytest.fixture(scope="module")
def chgnet() -> RelaxationStage:
    stage = RelaxationStage("default", fmax=0.05, max_steps=200)
    stage.setup()
    return stage


@pytest.fixture(scope="module")
def emt() -> RelaxationStage:
    stage = RelaxationStage(EMT_NAME, fmax=0.05, max_steps=200)
    stage.setup()
    return stage


# Free coordinates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crystal", "n_strains", "n_displacements"),
    [
        (ROCK_SALT, 1, 0),
        (PEROVSKITE, 1, 0),
        (WURTZITE, 2, 1),  # a, c and u: the shift of all atoms along the polar axis does not count
        (BODY_CENTRED, 2, 1),
        (COTUNNITE, 3, 4),  # x and z of two sites on the mirror
    ],
)
def test_free_coordinates_are_those_of_the_international_tables(
    crystal: AsymmetricUnit, n_strains: int, n_displacements: int
) -> None:
    free = coordinates_of(crystal.to_structure())
    assert (len(free.strains), len(free.displacements)) == (n_strains, n_displacements)


@pytest.mark.parametrize("name", BY_CENTRING)
def test_a_crystal_moved_along_its_free_coordinates_keeps_its_group(name: str) -> None:
    structure = BY_CENTRING[name].to_structure()
    free = coordinates_of(structure)
    values = np.random.default_rng(1).normal(scale=0.2, size=free.size)
    lattice, positions = free.crystal(values)
    moved = Structure(lattice, structure.species, positions, coords_are_cartesian=True)
    assert group_of(moved) == BY_CENTRING[name].space_group
    assert not np.allclose(moved.distance_matrix, structure.distance_matrix, atol=1e-3)


def test_gradient_is_the_derivative_of_the_energy() -> None:
    free = coordinates_of(LOW_SYMMETRY)
    values = np.random.default_rng(0).normal(scale=0.1, size=free.size)

    def atoms(at: NDArray[np.float64]) -> Atoms:
        lattice, positions = free.crystal(at)
        numbers = LOW_SYMMETRY.atomic_numbers
        return Atoms(numbers, positions=positions, cell=lattice, pbc=True, calculator=EMT())

    here = atoms(values)
    gradient = free.gradient(values, here.get_forces(), here.get_stress(voigt=False))
    step = 1e-4
    for k, along in enumerate(np.eye(free.size) * step):
        rise = atoms(values + along).get_potential_energy()
        fall = atoms(values - along).get_potential_energy()
        assert gradient[k] == pytest.approx((rise - fall) / (2 * step), abs=1e-4)


def test_symmetrised_forces_and_stress_are_those_of_ase() -> None:
    structure = COTUNNITE.to_structure()
    atoms = Atoms(
        structure.atomic_numbers, cell=structure.lattice.matrix, positions=structure.cart_coords
    )
    atoms.pbc = True
    free = coordinates_of(structure)
    constraint = FixSymmetry(atoms, symprec=0.01)
    rng = np.random.default_rng(2)
    forces = rng.normal(size=(len(atoms), 3))
    forces -= forces.mean(axis=0)
    expected = forces.copy()
    constraint.adjust_forces(atoms, expected)
    np.testing.assert_allclose(free.symmetrised_forces(forces), expected, atol=1e-9)
    stress = rng.normal(size=6)
    expected = stress.copy()
    constraint.adjust_stress(atoms, expected)
    xx, yy, zz, yz, xz, xy = stress
    full = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    found = free.symmetrised_stress(full)
    np.testing.assert_allclose(np.diag(found), expected[:3], atol=1e-9)
    np.testing.assert_allclose(found - np.diag(np.diag(found)), 0, atol=1e-9)


def test_a_crystal_without_symmetry_has_all_coordinates_free() -> None:
    rng = np.random.default_rng(5)
    structure = Structure(
        Lattice.from_parameters(5, 6, 7, 80, 95, 103), ["Cu", "Au", "Ag"], rng.random((3, 3))
    )
    free = coordinates_of(structure)
    assert (len(free.strains), len(free.displacements)) == (6, 6)


def test_slightly_broken_symmetry_is_mended() -> None:
    structure = ROCK_SALT.to_structure()
    structure.perturb(0.002)
    assert group_of(structure) != 225
    free = coordinates_of(structure)
    mended = Structure(free.lattice, structure.species, free.positions, coords_are_cartesian=True)
    assert group_of(mended, 1e-6) == 225


# Minimiser --------------------------------------------------------------------------------------


def test_minimiser_finds_the_minimum_of_ase() -> None:
    atoms = Atoms(
        CLOSE_PACKED.atomic_numbers,
        positions=CLOSE_PACKED.cart_coords,
        cell=CLOSE_PACKED.lattice.matrix,
        pbc=True,
        calculator=EMT(),
    )
    atoms.set_constraint(FixSymmetry(atoms, symprec=0.01))
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.002, steps=500)
    relaxed = relax(CLOSE_PACKED, EMT(), fmax=0.002, max_steps=500)
    assert relaxed.converged
    assert relaxed.energy == pytest.approx(atoms.get_potential_energy(), abs=2e-4)
    assert relaxed.structure.volume == pytest.approx(atoms.get_volume(), rel=2e-3)


def test_convergence_means_what_it_means_for_the_filter_of_ase() -> None:
    relaxed = relax(LOW_SYMMETRY, EMT(), fmax=0.03, max_steps=200)
    atoms = Atoms(
        relaxed.structure.atomic_numbers,
        positions=relaxed.structure.cart_coords,
        cell=relaxed.structure.lattice.matrix,
        pbc=True,
        calculator=EMT(),
    )
    rows = FrechetCellFilter(atoms).get_forces()
    assert np.linalg.norm(rows, axis=1).max() < 0.03
    assert relaxed.max_force == pytest.approx(
        np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-6
    )


def test_minimiser_crosses_a_region_of_negative_curvature() -> None:
    """A double well in one displacement: started beside its top, it ends in a well."""
    free = coordinates_of(WURTZITE.to_structure())

    def evaluate(lattice: NDArray[np.float64], positions: NDArray[np.float64]) -> Point:
        # The amount of the displacement, from positions in a cell that the model never strains.
        moved = float(np.sum(free.displacements[0] * (positions - free.positions)))
        at = moved + 0.05
        slope = 4 * at**3 - 2 * at
        forces = -slope * free.displacements[0]
        return Point(lattice, positions, at**4 - at**2, forces, np.zeros((3, 3)))

    steps = minimise(free, fmax=1e-3, max_steps=50)
    asked = next(steps)
    while True:
        try:
            asked = steps.send(evaluate(asked.lattice, asked.positions))
        except StopIteration as end:
            minimum = end.value
            break
    assert minimum.converged
    assert minimum.point.energy == pytest.approx(-0.25, abs=1e-5)


def test_the_expected_fall_is_exact_where_the_curvature_is_known() -> None:
    """A parabola of 8 eV per square angstrom, which is what the minimiser starts from."""
    free = coordinates_of(WURTZITE.to_structure())
    away, curvature = 0.05, 8.0
    steps = minimise(free, fmax=1e-3, max_steps=50)
    first = next(steps)
    assert first.expected_fall == np.inf
    forces = -curvature * away * free.displacements[0]
    energy = curvature * away**2 / 2
    second = steps.send(Point(first.lattice, first.positions, energy, forces, np.zeros((3, 3))))
    assert second.expected_fall == pytest.approx(energy)
    moved = np.sum(free.displacements[0] * (second.positions - free.positions))
    assert moved == pytest.approx(-away)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    number=st.sampled_from([16, 26, 36, 62, 99, 123, 139, 156, 166, 187, 194, 216, 221, 225]),
)
def test_whatever_the_crystal_the_energy_falls_and_the_group_stays(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(4.5, 6.5, size=3)
    ties = {99: (0, 0, 2), 123: (0, 0, 2), 139: (0, 0, 2), 156: (0, 0, 2), 166: (0, 0, 2)}
    ties |= {187: (0, 0, 2), 194: (0, 0, 2), 216: (0, 0, 0), 221: (0, 0, 0), 225: (0, 0, 0)}
    lengths = lengths[list(ties.get(number, (0, 1, 2)))]
    points = rng.choice([0, 0.25, 0.5, 0.31], size=(2, 3))
    numbers = np.array([29, 79])
    unit = AsymmetricUnit(number, lengths, points, numbers).settled()
    structure = unit.to_structure()
    if len(structure.get_neighbor_list(1.6)[3]) or len(structure) > 16:
        return
    calculator = EMT()
    before = relax(structure, calculator, fmax=0.05, max_steps=0)
    group = group_of(structure, 0.01)
    try:
        after = relax(structure, calculator, fmax=0.05, max_steps=60)
    except ExplodedError:
        return
    assert after.energy <= before.energy + 1e-3 * len(structure)
    assert len(after.structure) == len(before.structure)
    kept = group_of(after.structure)
    assert kept == group or group_of(after.structure, 0.05) >= group


# Potentials -------------------------------------------------------------------------------------


def test_chgnet_gives_the_energy_of_salt(chgnet: RelaxationStage) -> None:
    """With MP2020 corrections; without them it would be -3.37 eV per atom."""
    stretched = ROCK_SALT.to_structure()
    stretched.scale_lattice(1.25 * stretched.volume)
    row = chgnet(row_of(stretched))
    assert row["energy_per_atom"] == pytest.approx(-3.67, abs=0.01)
    assert structure_from_row(row).volume * 4 == pytest.approx(5.69**3, rel=0.03)
    assert load_calculator("default").corrected


def test_a_worker_relaxes_on_its_gpu_if_it_is_to_and_has_one(chgnet: RelaxationStage) -> None:
    stage = RelaxationStage("default", fmax=0.05, max_steps=200, device="gpu")
    stage.setup()
    has_gpu = torch.cuda.is_available()
    assert stage._loaded["potential"].device == ("cuda" if has_gpu else "cpu")
    row = row_of(PEROVSKITE.to_structure())
    here, there = chgnet(row), stage(row)
    assert there["energy"] == pytest.approx(here["energy"], abs=1e-3 if has_gpu else 0)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_one_backward_pass_gives_what_the_packages_own_calculator_gives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from chgnet.model.dynamics import CHGNetCalculator  # noqa: PLC0415 - slow to import

    structure = COTUNNITE.to_structure()
    structure.perturb(0.05)
    atoms = Atoms(
        structure.atomic_numbers, cell=structure.lattice.matrix, positions=structure.cart_coords
    )
    atoms.pbc = True
    own = load_calculator("default").ase()
    published = CHGNetCalculator(use_device="cpu")
    capsys.readouterr()
    own.calculate(atoms, ["energy"], all_changes)
    published.calculate(atoms)
    for name in ("energy", "forces", "stress"):
        np.testing.assert_allclose(own.results[name], published.results[name], atol=1e-4)


def test_chgnet_is_silent_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    stage = RelaxationStage("default", fmax=0.05, max_steps=1)
    stage.setup()
    stage(row_of(ROCK_SALT.to_structure()))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", SEVENNET_WEIGHTS)
def test_sevennet_gives_the_corrected_energy_of_salt(name: str) -> None:
    """Without the correction of chlorine it would be -3.37 eV per atom."""
    stage = RelaxationStage(name, fmax=0.05, max_steps=200)
    stage.setup()
    stretched = ROCK_SALT.to_structure()
    stretched.scale_lattice(1.25 * stretched.volume)
    row = stage(row_of(stretched))
    assert row["energy_per_atom"] == pytest.approx(-3.68, abs=0.02)
    assert row["energy"] == pytest.approx(2 * row["energy_per_atom"])
    assert row["calculator"].startswith(f"{name}-0.13.")
    relaxed = structure_from_row(row)
    assert relaxed.volume * 4 == pytest.approx(5.69**3, rel=0.03)
    bare = relax(relaxed, load_calculator(name).ase(), fmax=0.05, max_steps=0).energy
    assert row["energy"] - bare == pytest.approx(mp2020_correction(relaxed), abs=1e-5)


@pytest.mark.parametrize("name", SEVENNET_WEIGHTS)
def test_sevennet_says_the_same_of_many_as_of_each(name: str) -> None:
    """More atoms than a pass holds, one crystal that fails, and shear in the stress."""
    oblique = Structure(
        [[4.1, 0, 0], [0.7, 3.9, 0], [0.3, -0.5, 4.4]],
        ["Na", "Cl"],
        [[0, 0, 0], [0.48, 0.52, 0.55]],
    )
    structures = [unit.to_structure() for unit in BY_CENTRING.values()] + [oblique] * 10
    crystals = [AseAtomsAdaptor.get_atoms(structure) for structure in structures]
    assert sum(len(crystal) for crystal in crystals) > ATOMS_AT_ONCE["cpu"]
    unknown = Atoms(["X"], cell=4 * np.eye(3), pbc=True)
    crystals.insert(3, unknown)
    found = load_calculator(name).load().evaluate(crystals)
    one_by_one = OneByOne(load_calculator(name).ase()).evaluate(crystals)
    assert str(found[3]) == "SevenNet does not know X"
    assert isinstance(one_by_one[3], Exception)
    for place, (together, alone) in enumerate(zip(found, one_by_one, strict=True)):
        if place != 3:
            assert together.energy == pytest.approx(alone.energy, abs=1e-4)
            assert together.forces == pytest.approx(alone.forces, abs=1e-4)
            assert together.stress == pytest.approx(alone.stress, abs=1e-5)


@pytest.mark.parametrize("name", ["chgnet", *SEVENNET_WEIGHTS, EMT_NAME])
def test_what_every_potential_does(name: str) -> None:
    """Forces and stress are derivatives, nothing is remembered, and the atoms are left alone."""
    calculator = load_calculator(name).ase()
    structure = Structure(Lattice.tetragonal(2.8, 3.7), ["Cu", "Au"], [[0] * 3, [0.5, 0.45, 0.52]])
    atoms, others = (
        Atoms(s.atomic_numbers, cell=s.lattice.matrix, positions=s.cart_coords, pbc=True)
        for s in (structure, CLOSE_PACKED)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")

        def energy(of: Atoms) -> float:
            of.calc = calculator
            return float(of.get_potential_energy())

        before = copy.deepcopy((atoms.positions, atoms.cell.array, atoms.numbers))
        first = energy(atoms)
        forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
        assert all(
            np.array_equal(*pair)
            for pair in zip(before, (atoms.positions, atoms.cell.array, atoms.numbers), strict=True)
        )
        energy(others)
        assert energy(atoms) == pytest.approx(first, abs=1e-5)

        step = 0.01
        up, down = atoms.copy(), atoms.copy()
        up.positions[1, 0] += step
        down.positions[1, 0] -= step
        slope = (energy(up) - energy(down)) / (2 * step)
        assert -slope == pytest.approx(forces[1, 0], abs=0.02)

        strain = np.zeros((3, 3))
        strain[0, 0] = 0.005
        up, down = atoms.copy(), atoms.copy()
        up.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        down.set_cell(atoms.cell @ (np.eye(3) - strain), scale_atoms=True)
        slope = (energy(up) - energy(down)) / (2 * strain[0, 0]) / atoms.get_volume()
        assert slope == pytest.approx(stress[0, 0], abs=2e-3)


def test_a_potential_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"'sevennet-0' is not installed; `pip install"):
        _ = load_calculator("sevennet-0").fingerprint


def test_calculators_are_named_and_told_apart() -> None:
    assert load_calculator("default").name == "chgnet"
    assert load_calculator("default").fingerprint.startswith("chgnet-0.4.2-")
    other = load_calculator(EMT_NAME)
    assert (other.name, other.corrected) == (EMT_NAME, False)
    names = ["chgnet", *SEVENNET_WEIGHTS, EMT_NAME]
    assert len({load_calculator(name).fingerprint for name in names}) == len(names)
    assert [load_calculator(name).corrected for name in names] == [True, True, True, False]
    salt = ROCK_SALT.to_structure()
    corrections = [load_calculator(name).correction(salt) for name in names]
    assert corrections == [0.0, pytest.approx(-0.614), pytest.approx(-0.614), 0.0]
    assert other.fingerprint.startswith(f"{EMT_NAME}-")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vasp", r"relaxation.calculator is 'vasp'; allowed: default, chgnet, sevennet-0, "),
        ("no.such:thing", r"'no.such:thing', which cannot be imported: ModuleNotFoundError"),
        ("ase.calculators.emt:none", r"which cannot be imported: AttributeError"),
        ("ase.calculators.emt:parameters", r"which is not a function or class"),
    ],
)
def test_an_unknown_calculator_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_calculator(name)


# Stage ------------------------------------------------------------------------------------------


def test_crystals_go_down_together_as_they_do_alone(chgnet: RelaxationStage) -> None:
    """More than one pass of the potential holds, one that cannot be evaluated, one that explodes."""
    isolated = Structure(Lattice.cubic(9), ["Na"], [[0, 0, 0]])
    colliding = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]])
    good = [unit.to_structure() for unit in BY_CENTRING.values()]
    assert sum(len(structure) for structure in good) > ATOMS_AT_ONCE["cpu"] / 2
    rows = [row_of(structure) for structure in [*good, isolated, *good, colliding]]
    found = chgnet.together(rows)
    for row, together in zip(rows, found, strict=True):
        alone = chgnet(row)
        assert together["status"] == alone["status"]
        assert together.get("error") == alone.get("error")
        if alone["status"] == "kept":
            assert together["energy_per_atom"] == pytest.approx(alone["energy_per_atom"], abs=1e-4)
            assert together["converged"] == alone["converged"]
    failed = [place for place, row in enumerate(found) if row["status"] == "failed"]
    assert {len(good), len(rows) - 1} <= set(failed)
    assert len(failed) < len(rows) / 2


def test_what_cannot_come_close_to_the_hull_is_given_up() -> None:
    stage = RelaxationStage(EMT_NAME, fmax=0.01, max_steps=200, give_up_above=0.1)
    stage.setup()
    row = row_of(CLOSE_PACKED)
    alone = stage(row)
    energy, n_steps = alone["energy_per_atom"], alone["n_steps"]
    reached, missed, hopeless = stage.together(
        [Rival(row, energy - 0.099), Rival(row, energy - 0.15), Rival(row, energy - 100.0)]
    )
    assert reached == alone
    for given_up, most in ((missed, n_steps), (hopeless, 1)):
        assert given_up["status"] == "filtered"
        found = re.fullmatch(
            r"give_up_above: not expected below (\d+\.\d\d) eV/atom above the hull after (\d+) "
            r"evaluations > 0\.1",
            given_up["reason"],
        )
        assert float(found[1]) > 0.1
        assert 1 <= int(found[2]) <= most
        assert "energy" not in given_up
        assert given_up["lattice_vectors"] == row["lattice_vectors"]


def test_one_pass_of_many_crystals_gives_what_single_ones_give() -> None:
    calculator = load_calculator("default").ase()
    crystals = [
        Atoms(s.atomic_numbers, cell=s.lattice.matrix, positions=s.cart_coords, pbc=True)
        for s in (unit.to_structure() for unit in BY_CENTRING.values())
    ]
    for together, crystal in zip(calculator.evaluate(crystals), crystals, strict=True):
        crystal.calc = calculator
        assert together.energy == pytest.approx(crystal.get_potential_energy(), abs=1e-4)
        np.testing.assert_allclose(together.forces, crystal.get_forces(), atol=1e-4)
        np.testing.assert_allclose(together.stress, crystal.get_stress(voigt=False), atol=1e-5)


def test_a_sample_becomes_a_candidate(emt: RelaxationStage) -> None:
    sample = row_of(LOW_SYMMETRY, space_group_requested=36, site_counts="Au1-Cu1", seed=7)
    before = copy.deepcopy(sample)
    candidate = emt(sample)
    assert sample == before
    assert candidate["status"] == "kept"
    assert candidate["converged"] is True
    assert candidate["n_steps"] > 0
    assert candidate["max_force"] < 0.05
    assert candidate["energy_per_atom"] == pytest.approx(candidate["energy"] / candidate["nsites"])
    assert candidate["calculator"] == load_calculator(EMT_NAME).fingerprint
    for name in ("sample_id", "space_group_requested", "site_counts", "seed"):
        assert candidate[name] == sample[name]
    assert candidate["lattice_vectors"] != sample["lattice_vectors"]


def test_an_unconverged_crystal_keeps_its_energy() -> None:
    stage = RelaxationStage(EMT_NAME, fmax=1e-6, max_steps=2)
    stage.setup()
    candidate = stage(row_of(LOW_SYMMETRY))
    assert (candidate["status"], candidate["converged"], candidate["n_steps"]) == ("kept", False, 2)
    assert np.isfinite(candidate["energy"])


def test_the_primitive_cell_is_relaxed(emt: RelaxationStage) -> None:
    conventional = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
    primitive = conventional.get_primitive_structure()
    large, small = emt(row_of(conventional)), emt(row_of(primitive))
    assert large["nsites"] == small["nsites"] == 1
    assert large["energy"] == pytest.approx(small["energy"], abs=1e-6)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]]), "0.20 Å from one"),
        (Structure(Lattice.cubic(9), ["Na"], [[0, 0, 0]]), "1 isolated atom"),
        (Structure(Lattice.cubic(11.5), ["K", "Cl"], [[0, 0, 0], [0.5] * 3]), "isolated atom"),
    ],
)
def test_a_crystal_that_makes_no_sense_is_recorded(
    chgnet: RelaxationStage, structure: Structure, message: str
) -> None:
    candidate = chgnet(row_of(structure))
    assert candidate["status"] == "failed"
    assert candidate["error"].startswith("relaxation: ")
    assert message in candidate["error"]
    assert "energy" not in candidate
    assert candidate["sample_id"] == "a-000"


class RunsAway(Calculator):
    """Pulls the cell apart, or reports what it is told to."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it
    energy = 0.0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Report an energy that falls with the volume."""
        super().calculate(atoms, properties, system_changes)
        volume = self.atoms.get_volume()
        self.results = {
            "energy": self.energy - 0.1 * volume,
            "forces": np.zeros((len(self.atoms), 3)),
            "stress": -0.1 * np.eye(3),
        }


def test_a_crystal_that_explodes_is_not_returned() -> None:
    with pytest.raises(ExplodedError, match=r"the volume changed by a factor of \d\.\d+, beyond 3"):
        relax(ROCK_SALT.to_structure(), RunsAway(), fmax=0.05, max_steps=100)


def test_a_crystal_that_collapses_is_not_returned(chgnet: RelaxationStage) -> None:
    """CHGNet has a minimum with copper 0.43 angstrom from silicon, which must not look like one."""
    found = chgnet(row_of(Structure(4.0 * np.eye(3), ["Cu", "Si"], [[0, 0, 0], [0, 0, 0.125]])))
    assert found["status"] == "failed"
    assert re.fullmatch(
        r"relaxation: collapsed: atoms at 0\.\d\d of the sum of their covalent radii, closer than "
        r"0\.4, which no known crystal has",
        found["error"],
    )


@pytest.mark.parametrize(
    ("energy", "message"), [(np.nan, "not finite"), (-1e4, "which nothing real has")]
)
def test_impossible_energies_are_refused(energy: float, message: str) -> None:
    calculator = RunsAway()
    calculator.energy = energy
    with pytest.raises(ExplodedError, match=message):
        relax(ROCK_SALT.to_structure(), calculator, fmax=0.05, max_steps=100)


def test_a_row_without_a_crystal_is_recorded(emt: RelaxationStage) -> None:
    row = {"sample_id": "a-001", "status": "kept", "lattice_vectors": None}
    assert emt(row)["error"] == "relaxation: ValueError: sample a-001 has no structure"


def test_the_stage_travels_without_its_potential(emt: RelaxationStage) -> None:
    copied = pickle.loads(pickle.dumps(emt))  # noqa: S301 - our own bytes
    assert copied == emt
    assert copied._loaded == {}


def test_orientation_and_order_of_atoms_do_not_matter(chgnet: RelaxationStage) -> None:
    structure = WURTZITE.to_structure()
    turned = Structure(
        structure.lattice.matrix @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        structure.species[::-1],
        structure.frac_coords[::-1] + 0.123,
    )
    one, other = chgnet(row_of(structure)), chgnet(row_of(turned))
    assert one["energy"] == pytest.approx(other["energy"], abs=1e-3)
    assert one["space_group_it_number"] == other["space_group_it_number"] == 186
