"""Noise, its exact score, and training that can be interrupted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from crystals import BY_CENTRING, COTUNNITE, ROCK_SALT, ExactScore

from model.checkpoint import CheckpointError, checkpoint_path, load_checkpoint
from model.dataset import Crystals, DataError, join, read_cells, read_crystals
from model.lattice import l3_from_lengths, lengths_from_l3
from model.network import NetworkConfig
from model.noise import NoiseSchedule, posterior_displacement
from model.perturbation import KnownCrystals, perturb
from model.training import DECIDING_SIGMA, TrainingConfig, draw_levels, train

if TYPE_CHECKING:
    from pathlib import Path

SMALL = TrainingConfig(
    epochs=4, batch_size=4, network=NetworkConfig(hidden=8, bottleneck=4, n_blocks=1)
)


# pymatgen warns of the 1/3 and 2/3 that it writes with six digits and rounds when reading.
pytestmark = pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF")


@pytest.fixture
def cif_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, unit in BY_CENTRING.items():
        unit.to_structure().to(str(folder / f"{name.replace(' ', '-')}.cif"))
    return folder


def test_schedule_is_geometric() -> None:
    schedule = NoiseSchedule(position_smallest=0.01, position_largest=1.0)
    sigma = schedule.position_sigma(torch.tensor([0.0, 0.5, 1.0]))
    assert sigma.tolist() == pytest.approx([0.01, 0.1, 1.0])


def test_posterior_displacement_is_the_gradient_of_the_log_density() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.7], dtype=torch.float64)
    at = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    density = torch.logsumexp(-0.5 * (images - at).square().sum(1) / sigma**2, dim=0)
    (gradient,) = torch.autograd.grad(density, at)
    owner = torch.zeros(7, dtype=torch.int64)
    mean = posterior_displacement(images, sigma, owner, 1)
    assert torch.allclose(mean[0] / sigma**2, gradient)


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_targets_are_the_exact_score_of_the_clean_crystal(level: float) -> None:
    clean = join([COTUNNITE, ROCK_SALT])
    levels = torch.full((2,), level, dtype=torch.float64)
    schedule = NoiseSchedule()
    known = KnownCrystals.of(clean, torch.float64)
    example = perturb(known, levels, schedule, torch.Generator().manual_seed(3))
    # The score of positions is that of the crystal in the noisy cell.
    stretched = [
        type(unit)(unit.space_group, lengths, unit.frac_coords, unit.atomic_numbers)
        for unit, lengths in zip(
            [COTUNNITE, ROCK_SALT], lengths_from_l3(example.l3).numpy(), strict=True
        )
    ]
    exact = ExactScore(stretched, schedule)(example.batch, example.frac_coords, example.l3, levels)
    assert torch.allclose(example.position_noise, exact.positions, atol=1e-5)
    known = l3_from_lengths(torch.as_tensor(clean.lengths))
    moved = (example.l3 - known) / schedule.length_sigma(levels)[:, None]
    assert torch.allclose(moved[1], example.length_noise[1, 0].expand(3).double())


def test_large_noise_has_the_right_mean_target() -> None:
    """Where images are summed over, the target's mean over draws is still the score."""
    n_draws = 4000
    clean = Crystals(
        np.full(n_draws, 225),
        np.tile(ROCK_SALT.lengths, (n_draws, 1)),
        np.ones(n_draws, dtype=np.int64),
        np.zeros((n_draws, 3)),
        np.full(n_draws, 11),
    )
    levels = torch.full((n_draws,), 0.95)
    known = KnownCrystals.of(clean)
    example = perturb(known, levels, NoiseSchedule(), torch.Generator().manual_seed(0))
    # Nearly uniform in the cell: no direction is preferred, and little is left to predict.
    assert example.position_noise.mean(dim=0).abs().max() < 0.1
    assert example.position_noise.square().mean() < 1.1


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_levels_are_spread_over_the_range_and_where_places_are_decided(share: float) -> None:
    config = TrainingConfig(deciding_share=share)
    n_levels, n_deciding = 64, round(64 * share)
    level = draw_levels(n_levels, config, torch.Generator().manual_seed(3))
    assert level.shape == (n_levels,)
    everywhere, deciding = level[: n_levels - n_deciding], level[n_levels - n_deciding :]
    low, high = (config.schedule.level_of(sigma) for sigma in DECIDING_SIGMA)
    sigma = config.schedule.position_sigma(torch.tensor([low, high]))
    assert sigma.tolist() == pytest.approx(DECIDING_SIGMA)
    for levels, first, last in ((everywhere, 0.0, 1.0), (deciding, low, high)):
        place = (levels - first) / (last - first) * len(levels)
        assert place.floor().tolist() == list(range(len(levels)))  # one in each part


def test_noise_beyond_the_schedule_has_the_nearest_level() -> None:
    schedule = NoiseSchedule(position_smallest=0.5, position_largest=1.0)
    assert [schedule.level_of(sigma) for sigma in DECIDING_SIGMA] == [0.0, 1.0]


def test_training_learns_and_resumes(cif_folder: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole.safetensors", tmp_path / "halves.safetensors"
    losses = train([cif_folder], whole, SMALL, device="cpu")
    assert len(losses) == 10
    assert all(np.isfinite(row["position_loss"]) for row in losses)

    # The cosine depends on how long the run will be, so a run is cut short by its time instead.
    train([cif_folder], halves, TrainingConfig(**{**vars(SMALL), "minutes": 1e-9}), device="cpu")
    assert (
        load_checkpoint(str(halves)).training_record["steps"]
        < load_checkpoint(str(whole)).training_record["steps"]
    )
    train([cif_folder], halves, SMALL, device="cpu")
    first, second = load_checkpoint(str(whole)), load_checkpoint(str(halves))
    assert first.fingerprint == second.fingerprint
    assert first.training_record["hours"] > 0


def test_training_goes_on_from_a_checkpoint(cif_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train([cif_folder], first, SMALL, device="cpu")
    # Sizes come from the checkpoint. There is time for one small step from the weights.
    no_time = TrainingConfig(minutes=1e-9, batch_size=4)
    train([cif_folder], second, no_time, start_from=str(first), device="cpu")
    before, after = load_checkpoint(str(first)), load_checkpoint(str(second))
    assert after.config == SMALL.network
    for name, weights in before.network.state_dict().items():
        assert torch.allclose(weights, after.network.state_dict()[name], atol=1e-4)
    lineage = after.training_record["started_from"]
    assert lineage["fingerprint"] == before.fingerprint
    assert lineage["steps"] == before.training_record["steps"]


def test_training_goes_on_in_a_wider_network(cif_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train([cif_folder], first, SMALL, device="cpu")
    no_time = TrainingConfig(minutes=1e-9, batch_size=4)
    wider = {"hidden": SMALL.network.hidden + 8, "bottleneck": SMALL.network.bottleneck + 4}
    train([cif_folder], second, no_time, start_from=str(first), widen=wider, device="cpu")
    after = load_checkpoint(str(second))
    assert after.config == replace(SMALL.network, **wider)
    assert after.training_record["started_from"]["hidden"] == SMALL.network.hidden
    # Again, and from the wider one, which has the same width without being asked.
    train([cif_folder], second, no_time, start_from=str(first), widen=wider, device="cpu")
    third = tmp_path / "third.safetensors"
    train([cif_folder], third, no_time, start_from=str(second), device="cpu")
    assert load_checkpoint(str(third)).config == after.config
    with pytest.raises(CheckpointError, match=r"network\.bottleneck must be at least"):
        train([cif_folder], third, no_time, start_from=str(second), widen={"bottleneck": 1})


def test_a_state_of_another_configuration_is_refused(cif_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    train([cif_folder], out, SMALL, device="cpu")
    other = TrainingConfig(**{**vars(SMALL), "batch_size": 2})
    with pytest.raises(DataError, match="was trained with another batch_size"):
        train([cif_folder], out, other, device="cpu")


def test_csv_and_cif_files_give_the_same_crystals(cif_folder: Path, tmp_path: Path) -> None:
    texts = [path.read_text().replace('"', '""') for path in sorted(cif_folder.glob("*.cif"))]
    table = tmp_path / "table.csv"
    table.write_text("cif\n" + "\n".join(f'"{text}"' for text in texts))
    from_folder, from_table = read_crystals([cif_folder]), read_crystals([table], tmp_path)
    again = read_crystals([table], tmp_path)
    for other in (from_table, again):
        assert np.array_equal(from_folder.space_groups, other.space_groups)
        assert np.allclose(from_folder.frac_coords, other.frac_coords)
    assert sorted(from_folder.space_groups) == sorted(u.space_group for u in BY_CENTRING.values())


def test_tables_of_a_campaign_are_read(cif_folder: Path, tmp_path: Path) -> None:
    structures = [unit.to_structure() for unit in BY_CENTRING.values()]
    rows = [
        {
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "species_at_sites": [site.specie.symbol for site in structure],
            "cartesian_site_positions": structure.cart_coords.tolist(),
        }
        for structure in structures
    ]
    nothing = dict.fromkeys(rows[0])
    table = tmp_path / "candidates.parquet"
    pq.write_table(pa.Table.from_pylist([*rows[:2], nothing, *rows[2:]]), table)
    from_table, from_folder = read_crystals([table]), read_crystals([cif_folder])
    assert sorted(from_table.space_groups) == sorted(from_folder.space_groups)
    assert sorted(from_table.atomic_numbers) == sorted(from_folder.atomic_numbers)
    for crystal, structure in zip(read_cells(table), structures, strict=True):
        lattice, coords, numbers = crystal
        assert np.allclose(coords @ lattice, structure.cart_coords)
        assert numbers.tolist() == list(structure.atomic_numbers)

    rows[0]["species_at_sites"] = ["Xx"] * len(rows[0]["species_at_sites"])
    pq.write_table(pa.Table.from_pylist(rows), table)
    with pytest.raises(DataError, match="species_at_sites holds 'Xx', which is no element"):
        read_crystals([table])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.csv", None, "no such file"),
        ("table.csv", "a,b\n1,2\n", "must have a column 'cif'"),
        ("data.txt", "x", "data must be"),
        ("data.parquet", "x", "must have the columns"),
    ],
)
def test_data_files_that_cannot_be_used(
    tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        read_crystals([tmp_path / name])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"network": {"hiden": 3}}, "unknown key 'network.hiden'"),
        ({"epoch": 3}, "unknown key 'epoch'"),
        ({"epochs": "many"}, "epochs is 'many'"),
        ({"batch_size": 0}, "batch_size must be above zero, got 0"),
        ({"deciding_share": 1.5}, "deciding_share must be from 0 to 1, got 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate must be above zero, got nan"),
        ({"schedule": 3}, "schedule must be a mapping, got 3"),
    ],
)
def test_configurations_that_cannot_be_used(values: dict[str, object], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        TrainingConfig.from_dict(values)


def test_configurations_are_read() -> None:
    config = TrainingConfig.from_dict({"epochs": 2, "network": {"hidden": 3}})
    assert (config.epochs, config.network.hidden, config.batch_size) == (2.0, 3, 64)


def test_checkpoints_that_cannot_be_used(tmp_path: Path, cif_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="must be one of default"):
        checkpoint_path("no-such-model")
    pickled = tmp_path / "pickle.safetensors"
    pickled.write_bytes(b"\x80\x04\x95not a tensor file, but a pickle")
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(str(pickled))
    whole = tmp_path / "model.safetensors"
    train([cif_folder], whole, SMALL, device="cpu")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(str(truncated))
