"""Whole campaigns: the real model, real potentials, a real local Ray."""

from __future__ import annotations

import io
import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from commands import command
from faulty_stages import DrawsAllButOne, RelaxesAllButOne, unprepared

from model.sampler import sampler_fingerprint
from model.shipped import shipped
from screening.campaign import Campaign
from screening.cluster import Cluster
from screening.errors import RunError, UserError
from screening.grid import units
from screening.hull import KnownHull
from screening.pipeline import fingerprints, resume_campaign, run_campaign
from screening.pool import Outcome
from screening.progress import HEARTBEAT, Progress, StageProgress
from screening.references import References
from screening.relaxation import RelaxationStage
from screening.schema import structure_from_row
from screening.status import campaign_status
from screening.store import Store
from screening.sweep import REFERENCES, RELAXATION, SAMPLING, RelaxTogether, Stages, Sweep
from screening.views import LineView

if TYPE_CHECKING:
    import subprocess

    from screening.run import CampaignResult

COPPER = """
name: copper
chemical_systems: [Cu]
space_groups: [225, 229, 221]
sites: {per_element: [1], total_max: 1}
samples_per_cell: 3
generator: {unit_size: 2}
relaxation: {max_steps: 60}
"""
# ASE's effective-medium potential takes milliseconds, and knows copper and aluminium.
ALLOY = """
name: alloy
chemical_systems: [Al-Cu]
space_groups: [221, 123]
sites: {per_element: [1], total_max: 2}
samples_per_cell: 6
seed: 7
generator: {unit_size: 1}
relaxation: {calculator: 'ase.calculators.emt:EMT', max_steps: 60}
references: REFERENCES
"""
# Energies of the elements in EMT's own crystals, eV per atom, and one phase between them.
KNOWN = "formula,energy_per_atom\nAl,-0.005\nCu,-0.007\nAlCu,-0.100\n"
LOST = "the machine was lost"
N_ALLOY = 12
GIVE_UP_S = 240


def quiet() -> LineView:
    return LineView(io.StringIO())


@pytest.fixture(scope="module")
def copper(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> CampaignResult:
    """A campaign from beginning to end with the default model, potential and references."""
    del local_ray
    out = tmp_path_factory.mktemp("copper") / "results"
    return run_campaign(Campaign.from_text(COPPER, "copper"), str(out), view=quiet())


def alloy(directory: Path, **generator: str) -> Campaign:
    known = directory / "known.csv"
    known.write_text(KNOWN)
    text = ALLOY.replace("REFERENCES", str(known))
    settings = "".join(f", {key}: '{value}'" for key, value in generator.items())
    return Campaign.from_text(text.replace("{unit_size: 1", "{unit_size: 1" + settings), "alloy")


def test_what_lies_far_above_the_hull_is_given_up(local_ray: None, tmp_path: Path) -> None:
    """Crystals wait for the hull of their system; those that are relaxed are so as ever."""
    del local_ray
    text = ALLOY.replace("REFERENCES", "prototypes")
    text = text.replace("max_steps: 60}", "max_steps: 60, give_up_above: 0.05}")
    campaign = Campaign.from_text(text, "alloy")
    uri = run_campaign(campaign, str(tmp_path / "results"), view=quiet()).uri
    store = Store(uri)
    samples = {row["sample_id"]: row for row in store.read_samples().to_pylist()}
    candidates = {row["sample_id"]: row for row in store.candidates().to_pylist()}
    assert len(samples) == N_ALLOY
    given_up = {name for name, row in samples.items() if row["status"] == "filtered"}
    assert given_up
    assert given_up == samples.keys() - candidates.keys()
    hull = KnownHull("Al-Cu", References(campaign, store).rows("Al-Cu"))
    stage = RelaxationStage(campaign.relaxation.calculator, campaign.relaxation.fmax, 60)
    stage.setup()
    for name, sample in samples.items():
        relaxed = stage({**sample, "status": "kept", "reason": None})
        height = relaxed["energy_per_atom"] - hull.energy_per_atom(
            relaxed["chemical_formula_reduced"]
        )
        if name in given_up:
            assert sample["reason"].startswith("give_up_above: not expected below ")
            assert height > campaign.relaxation.give_up_above
        else:
            assert candidates[name]["energy_per_atom"] == relaxed["energy_per_atom"]
            assert candidates[name]["e_above_hull"] == pytest.approx(height)


def test_copper_comes_out_as_it_is_known(copper: CampaignResult) -> None:
    best = copper.best[0]
    assert best["chemical_formula_reduced"] == "Cu"
    assert best["space_group_it_number"] == 225
    # The potential puts some other stacking 5 meV per atom below.
    assert best["e_above_hull"] == pytest.approx(0.0, abs=0.02)
    assert best["is_novel"] is False
    assert best["matched_reference_id"].startswith("Cu A1")
    assert best["smact_valid"] is True
    # Ashcroft and Mermin, Solid State Physics, table 4.1: a = 3.61 Å, four atoms in the cube.
    assert best["nsites"] == 1
    assert structure_from_row(best).volume == pytest.approx(3.61**3 / 4, rel=0.03)


def test_every_sample_is_accounted_for(copper: CampaignResult) -> None:
    store = Store(copper.uri)
    campaign = store.campaign()
    expected = {identity: unit for unit in units(campaign) for identity in unit.sample_ids}
    samples = store.read_samples().to_pylist()
    generator = f"{fingerprints(campaign)['model']}/{sampler_fingerprint('default')}"
    assert sorted(row["sample_id"] for row in samples) == sorted(expected)
    for row in samples:
        unit = expected[row["sample_id"]]
        assert row["space_group_requested"] == unit.cell.space_group
        assert row["seed"] == unit.seed(unit.sample_ids.index(row["sample_id"]))
        assert row["generator"] == generator
    kept = {row["sample_id"] for row in samples if row["status"] == "kept"}
    candidates = store.candidates().to_pylist()
    assert {row["sample_id"] for row in candidates} == kept
    assert len(candidates) == len(kept)


def test_the_table_is_ranked_and_its_duplicates_are_marked(copper: CampaignResult) -> None:
    rows = Store(copper.uri).candidates().to_pylist()
    heights = [row["e_above_hull"] for row in rows if row["e_above_hull"] is not None]
    assert heights == sorted(heights)
    assert all(row["e_above_hull"] is None for row in rows[len(heights) :])
    placed = [row for row in rows if row["status"] == "kept"]
    groups = {row["group_id"] for row in placed}
    representatives = [row for row in placed if row["is_representative"]]
    assert {row["sample_id"] for row in representatives} == groups
    assert sum(row["n_duplicates"] + 1 for row in representatives) == len(placed)
    assert copper.summary["distinct"] == len(groups)


def test_files_that_a_user_expects_are_there(copper: CampaignResult) -> None:
    out = Path(copper.uri)
    cifs = sorted(path.name for path in (out / "cif").iterdir())
    assert len(cifs) == len(copper.best)
    assert cifs[0].startswith("001_Cu_225_")
    assert "<html" in (out / "report.html").read_text()[:500]
    assert pq.read_table(out / "candidates.parquet").num_rows > 0
    frame = pq.read_table(out / "samples").to_pandas()
    assert len(frame) == 9


def test_the_summary_and_the_heartbeat_tell_what_was_done(copper: CampaignResult) -> None:
    store = Store(copper.uri)
    summary = store.read_json("summary.json")
    assert summary == json.loads(json.dumps(copper.summary))
    assert sum(summary["samples"].values()) == 9
    assert summary["units"] == {"done": 6}
    assert summary["all_runs"]["busy_s"].keys() == summary["this_run"]["stages"].keys()
    wall_h = summary["all_runs"]["wall_s"] / 3600
    assert 0 < summary["all_runs"]["core_hours"] <= wall_h * summary["this_run"]["cpus"] + 1e-3
    ranked = store.candidates().to_pylist()
    near = [
        row
        for row in ranked
        if row["e_above_hull"] is not None and row["e_above_hull"] <= 0.1
        if row["is_novel"] and row["is_representative"] and row["converged"]
    ]
    novel = summary["novel"]
    assert novel["near_hull"] == len(near)
    per_hour = len(near) / summary["all_runs"]["core_hours"]
    assert novel["near_hull_per_core_hour"] == pytest.approx(per_hour, rel=1e-3)
    assert novel["near_hull_per_gpu_hour"] is None
    stages = summary["this_run"]["stages"]
    assert stages["sampling"]["done"] == stages["sampling"]["total"] == 9
    assert stages["relaxation"]["done"] == stages["relaxation"]["total"]
    assert stages["references"]["done"] == stages["references"]["total"] > 5
    for stage in stages.values():
        assert 0 < stage["busy_s"] <= stage["wall_s"] * stage["workers"] * 1.05
    assert store.read_json(HEARTBEAT)["state"] == "finished"
    assert campaign_status(store)["state"] == "finished"


def test_a_finished_campaign_resumes_without_doing_anything_again(copper: CampaignResult) -> None:
    out = Path(copper.uri)
    before = {path: path.stat().st_mtime_ns for path in out.glob("samples/*/*.parquet")}
    table = Store(copper.uri).candidates()
    began = time.monotonic()
    again = resume_campaign(copper.uri, view=quiet())
    assert time.monotonic() - began < 60
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert Store(copper.uri).candidates().equals(table)
    assert again.summary["this_run"]["stages"]["sampling"]["busy_s"] == 0


@pytest.fixture(scope="module")
def retried(
    local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CampaignResult, CampaignResult]:
    """A campaign of whose units most have failed: resumed, and resumed with `--retry-failed`."""
    del local_ray
    directory = tmp_path_factory.mktemp("retried")
    campaign, out = alloy(directory), str(directory / "out")
    store, parts = Store(out), fingerprints(campaign)
    store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    for unit in list(units(campaign))[2:]:
        rows = [
            {
                "sample_id": identity,
                "unit_id": unit.unit_id,
                "chemical_system": "Al-Cu",
                "status": "failed",
                "error": LOST,
            }
            for identity in unit.sample_ids
        ]
        store.write_unit(unit, rows, [], state="failed", attempts=3, error=LOST)
    once = resume_campaign(out, view=quiet())
    return once, resume_campaign(out, retry_failed=True, view=quiet())


def test_failed_units_stay_recorded_and_are_tried_again_when_asked(
    retried: tuple[CampaignResult, CampaignResult],
) -> None:
    once, again = retried
    assert once.summary["units"] == {"failed": N_ALLOY - 2, "done": 2}
    assert once.summary["samples"]["failed"] == N_ALLOY - 2
    assert again.summary["units"] == {"done": N_ALLOY}
    assert again.summary["samples"]["failed"] == 0
    assert again.best[0]["hull_source"] == "known.csv"
    assert again.summary["all_runs"]["runs"] == 2
    files = {path.name for path in (Path(again.uri) / "cif").iterdir()}
    assert len(files) == len(again.best)


def test_a_changed_campaign_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = alloy(tmp_path)
    out = str(tmp_path / "out")
    parts = fingerprints(campaign)
    store = Store(out)
    store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    (tmp_path / "known.csv").write_text(KNOWN.replace("-0.1", "-0.2"))
    with pytest.raises(UserError, match=r"was begun with something else: references \(file-"):
        resume_campaign(out, view=quiet())
    with pytest.raises(UserError, match="holds another campaign"):
        run_campaign(campaign, out, view=quiet())
    (tmp_path / "known.csv").write_text(KNOWN)
    text = (tmp_path / "out" / "campaign.yaml").read_text()
    (tmp_path / "out" / "campaign.yaml").write_text(text.replace("seed: 7", "seed: 8"))
    with pytest.raises(UserError, match=r"was begun with something else: campaign.yaml"):
        resume_campaign(out, view=quiet())
    (tmp_path / "out" / "campaign.yaml").write_text(text)
    monkeypatch.setattr("screening.relaxation.VERSION", "of tomorrow")
    with pytest.raises(
        UserError, match=r"something else: relaxation \(\d+ before, of tomorrow now"
    ):
        resume_campaign(out, view=quiet())


def test_a_directory_that_a_run_works_on_is_refused(tmp_path: Path) -> None:
    campaign = alloy(tmp_path)
    out = str(tmp_path / "out")
    parts = fingerprints(campaign)
    store = Store(out)
    store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    beat = {"state": "running", "updated_at": time.time(), "host": "another", "process": 1}
    store.write_json(HEARTBEAT, beat)
    with pytest.raises(UserError, match="is being worked on by another run"):
        run_campaign(campaign, out, view=quiet())


def test_an_element_that_the_potential_does_not_know_is_a_recorded_failure(
    local_ray: None, tmp_path: Path
) -> None:
    del local_ray
    text = ALLOY.replace("Al-Cu", "Cu-K").replace("[221, 123]", "[221]")
    text = text.replace("samples_per_cell: 6", "samples_per_cell: 2")
    known = tmp_path / "known.csv"
    known.write_text("formula,energy_per_atom\nK,-1.0\nCu,-3.7\n")
    campaign = Campaign.from_text(text.replace("REFERENCES", str(known)), "alloy")
    result = run_campaign(campaign, str(tmp_path / "out"), view=quiet())
    assert result.best == []
    assert result.summary["candidates"] == {"failed": result.summary["samples"]["kept"]}
    errors = {row["error"] for row in Store(result.uri).candidates().to_pylist()}
    assert all(error.startswith("relaxation: ") for error in errors)


@pytest.mark.slow
def test_a_campaign_of_random_crystals_goes_on_as_one(local_ray: None, tmp_path: Path) -> None:
    del local_ray
    text = ALLOY.replace("{unit_size: 1}", "{unit_size: 2, method: random}")
    text = text.replace("[221, 123]", "[221]").replace("samples_per_cell: 6", "samples_per_cell: 4")
    known = tmp_path / "known.csv"
    known.write_text(KNOWN)
    text = text.replace("REFERENCES", str(known))
    campaign = Campaign.from_text(text, "alloy")
    result = run_campaign(campaign, str(tmp_path / "out"), view=quiet())
    store = Store(result.uri)
    assert store.fingerprints["model"] == "random"
    samples = store.read_samples().to_pylist()
    assert [row["generator"] for row in samples] == ["random/1"] * 4
    assert result.summary["units"] == {"done": 2}
    again = resume_campaign(result.uri, view=quiet())
    assert again.summary["samples"] == result.summary["samples"]
    drawn_by_the_model = Campaign.from_text(text.replace(", method: random", ""), "alloy")
    with pytest.raises(UserError, match="holds another campaign"):
        run_campaign(drawn_by_the_model, result.uri, view=quiet())


def test_a_potential_that_kills_its_process_is_a_recorded_failure(
    local_ray: None, tmp_path: Path
) -> None:
    del local_ray
    campaign = alloy(tmp_path)
    text = campaign.to_yaml().replace("ase.calculators.emt:EMT", "faulty_stages:Crashing")
    text = text.replace("samples_per_cell: 6", "samples_per_cell: 1").replace("- 123\n", "")
    result = run_campaign(Campaign.from_text(text, "alloy"), str(tmp_path / "out"), view=quiet())
    assert result.summary["units"] == {"done": 1}
    assert result.summary["candidates"] == {"failed": 1}
    (row,) = Store(result.uri).candidates().to_pylist()
    assert row["error"].startswith("its worker process died at each of 3 attempts")
    assert row["e_above_hull"] is None


def test_a_unit_that_cannot_be_sampled_is_recorded_with_every_sample(tmp_path: Path) -> None:
    campaign = alloy(tmp_path)
    store, parts = Store(str(tmp_path / "out")), fingerprints(campaign)
    store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    stages = [StageProgress(name, "", "", 1.0) for name in (SAMPLING, RELAXATION, REFERENCES)]
    progress = Progress(stages, quiet())
    sweep = Sweep(campaign, store, References(campaign, store), "model/sampler", progress)
    unit = next(units(campaign))
    sweep._fail(unit, Outcome("sampling", unit.unit_id, None, "CUDA out of memory", 1))
    (row,) = store.read_samples().to_pylist()
    assert (row["sample_id"], row["status"]) == (unit.sample_id(0), "failed")
    assert (row["seed"], row["generator"]) == (unit.seed(0), "model/sampler")
    assert row["error"] == "CUDA out of memory"
    mark = store.finished_units()[unit.unit_id]
    assert (mark["state"], mark["failed"], mark["error"]) == ("failed", 1, "CUDA out of memory")


def test_a_worker_with_other_files_than_the_campaign_was_begun_with_is_refused(
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "mine.safetensors"
    checkpoint.write_bytes(shipped()["mp20"].read_bytes())
    campaign = alloy(tmp_path, checkpoint=str(checkpoint))
    parts = fingerprints(campaign)
    generator = f"{parts['model']}/{parts['sampler']}"
    stages = Stages.of(campaign, generator, parts["calculator"])
    stages.sampling.setup()
    stages.relaxation.setup()
    checkpoint.write_bytes(shipped()["mp2024"].read_bytes())
    with pytest.raises(
        UserError, match=rf"the generator of a worker on .*, where {generator} is meant"
    ):
        stages.sampling.setup()
    with pytest.raises(
        UserError, match=r"the calculator of a worker on .*, where emt-of-yesterday is meant"
    ):
        Stages.of(campaign, generator, "emt-of-yesterday").relaxation.setup()
    checkpoint.unlink()
    with pytest.raises(ValueError, match=r"checkpoint must be one of .*mine.safetensors"):
        stages.sampling.setup()
    random = alloy(tmp_path, method="random")
    parts = fingerprints(random)
    Stages.of(random, "/".join((parts["model"], parts["sampler"])), "").sampling.setup()


def test_a_unit_that_cannot_be_drawn_takes_no_other_with_it(
    local_ray: None, tmp_path: Path
) -> None:
    del local_ray
    campaign = alloy(tmp_path)
    unit_ids = [unit.unit_id for unit in units(campaign)]
    store, parts = Store(str(tmp_path / "out")), fingerprints(campaign)
    store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    stages = [StageProgress(name, "", "", 1.0) for name in (RELAXATION, REFERENCES)]
    # One of the middle, which is drawn with others.
    stages.append(StageProgress(SAMPLING, "", "", 1.0, N_ALLOY))
    relaxation = RelaxTogether(RelaxationStage(campaign.relaxation.calculator, 0.05, 1))
    work = Stages(DrawsAllButOne(unit_ids[5], "filtered"), relaxation, unprepared)
    references = References(campaign, store)
    progress = Progress(stages, quiet())
    with Cluster() as cluster:
        Sweep(campaign, store, references, "model/sampler", progress, work).run(cluster)
    marks = store.finished_units()
    assert {name: mark["state"] for name, mark in marks.items()} == {
        name: "failed" if name == unit_ids[5] else "done" for name in unit_ids
    }
    assert marks[unit_ids[5]]["error"] == f"ValueError: {unit_ids[5]} cannot be drawn"
    assert store.read_samples().num_rows == N_ALLOY


def test_a_crystal_that_cannot_be_relaxed_takes_no_other_with_it(
    local_ray: None, tmp_path: Path
) -> None:
    del local_ray
    text = alloy(tmp_path).to_yaml().replace("unit_size: 1", "unit_size: 6")
    campaign = Campaign.from_text(text.replace("references: ", "references: prototypes #"), "alloy")
    references = References(campaign, Store(str(tmp_path / "none")))
    bad = next(units(campaign)).sample_id(2)
    bad_phase = next(references.missing())["sample_id"]
    for out, name in ((tmp_path / "crystal", bad), (tmp_path / "phase", bad_phase)):
        store, parts = Store(str(out)), fingerprints(campaign)
        store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
        stages = [StageProgress(stage, "", "", 1.0) for stage in (RELAXATION, REFERENCES)]
        stages.append(StageProgress(SAMPLING, "", "", 1.0, N_ALLOY))
        work = Stages(DrawsAllButOne("", "kept"), RelaxesAllButOne(name), unprepared)
        references = References(campaign, store)
        with Cluster() as cluster:
            Sweep(
                campaign, store, references, "model/sampler", Progress(stages, quiet()), work
            ).run(cluster)
        rows = store.read_relaxed().to_pylist()
        phases = [
            row
            for path in (out / "references").iterdir()
            for row in store.read_table(f"references/{path.name}").to_pylist()
        ]
        assert len(rows) == N_ALLOY
        assert len(phases) == references.total
        errors = {row["sample_id"]: row["error"] for row in rows if row["error"]}
        errors |= {row["reference_id"]: row["error"] for row in phases if row["error"]}
        assert list(errors) == [name]
        assert errors[name].startswith("its worker process died at each of 3 attempts")


def wait_for_units(process: subprocess.Popen[str], out: Path, count: int) -> None:
    end = time.monotonic() + GIVE_UP_S
    while len(list(out.glob("_done/*.json"))) < count:
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_that_is_stopped_and_then_killed_ends_as_if_nothing_had_happened(
    retried: tuple[CampaignResult, CampaignResult], tmp_path: Path
) -> None:
    campaign = alloy(tmp_path)
    undisturbed = retried[1]
    file, out = tmp_path / "alloy.yaml", tmp_path / "out"
    file.write_text(campaign.to_yaml())

    process = command("run", str(file), "--out", str(out), "--num-samplers", "2")
    wait_for_units(process, out, 2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.splitlines()[-1].startswith("error: stopped with ")
    assert f"`screening resume {out}` goes on from there" in stderr
    assert "Traceback" not in stderr
    assert campaign_status(Store(str(out)))["state"] == "stopped"
    marks = when_finished(out)
    assert 2 <= len(marks) < N_ALLOY

    process = command("resume", str(out), "--num-samplers", "1")
    wait_for_units(process, out, len(marks) + 2)
    process.kill()
    process.communicate(timeout=60)
    assert campaign_status(Store(str(out)))["state"] == "stopped"
    half = out / "samples" / ".tmp-half-written"
    half.write_bytes(b"PAR1")

    result = resume_campaign(str(out), view=quiet())
    assert not half.exists()
    kept = when_finished(out)
    assert {unit: kept[unit] for unit in marks} == marks
    assert not list(out.glob("_done/*.json"))  # all is merged at the end
    assert result.summary["all_runs"]["runs"] == 3
    first, second = Store(undisturbed.uri), Store(result.uri)
    assert sorted_rows(second.read_samples()) == sorted_rows(first.read_samples())
    assert sorted_rows(second.candidates()) == sorted_rows(first.candidates())


def when_finished(out: Path) -> dict[str, float]:
    marks = Store(str(out)).finished_units()
    return {unit: mark["finished_at"] for unit, mark in marks.items()}


def sorted_rows(table: Any) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: row["sample_id"])


def test_a_full_disk_ends_the_run_with_a_sentence(local_ray: None, tmp_path: Path) -> None:
    del local_ray
    campaign = alloy(tmp_path)
    out = tmp_path / "out"
    parts = fingerprints(campaign)
    Store(str(out)).initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    (out / "samples").write_text("a file where a directory should be")
    with pytest.raises(RunError, match=r"samples/.* cannot be written: "):
        run_campaign(campaign, str(out), view=quiet())
    assert campaign_status(Store(str(out)))["state"] == "stopped"
