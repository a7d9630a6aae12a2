"""A campaign as a Ray job, and the files that start clusters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from screening.campaign import Campaign
from screening.cli import main
from screening.errors import UserError
from screening.submission import CAMPAIGN_FILE, check_output, pack

ROOT = Path(__file__).parent.parent
ALLOY = """
name: alloy
chemical_systems: [Al-Cu]
space_groups: [221]
sites: {per_element: [1], total_max: 2}
samples_per_cell: 1
seed: 7
relaxation: {calculator: 'ase.calculators.emt:EMT', max_steps: 10}
references: REFERENCES
"""
KNOWN = "formula,energy_per_atom\nAl,-0.005\nCu,-0.007\nAlCu,-0.100\n"


def alloy(directory: Path) -> Campaign:
    known = directory / "known.csv"
    known.write_text(KNOWN)
    return Campaign.from_text(ALLOY.replace("REFERENCES", str(known)), "alloy")


def test_what_is_sent_runs_without_the_repository(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    settings = {**alloy(tmp_path).resolved()}
    settings["generator"]["checkpoint"] = str(tmp_path / "mine.safetensors")
    (tmp_path / "sent").mkdir()
    pack(Campaign.from_mapping(settings), tmp_path / "sent")
    sent = Campaign.from_yaml(tmp_path / "sent" / CAMPAIGN_FILE)
    assert sent.generator.checkpoint == "mine.safetensors"
    assert sent.references == "known.csv"
    assert (tmp_path / "sent" / "known.csv").read_text() == KNOWN
    assert (tmp_path / "sent" / "mine.safetensors").read_bytes() == b"weights"
    assert list((tmp_path / "sent" / "model" / "checkpoints").glob("*.safetensors"))
    assert not list((tmp_path / "sent").rglob("__pycache__"))
    script = "import screening.campaign; print(screening.campaign.__file__)"
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", script],
        cwd=tmp_path / "sent",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(tmp_path / "sent" / "screening" / "campaign.py")


def test_a_file_that_the_campaign_names_and_that_is_not_there_is_named(tmp_path: Path) -> None:
    campaign = alloy(tmp_path)
    (tmp_path / "known.csv").unlink()
    (tmp_path / "sent").mkdir()
    with pytest.raises(UserError, match=r"references is '.*known.csv'; there is no such file"):
        pack(campaign, tmp_path / "sent")


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("results/x", "--out is 'results/x'; a job needs a URI"),
        ("s3://key:secret@bucket/x", "output s3://bucket/x is given with a key before the @"),
    ],
)
def test_a_place_that_a_job_cannot_use_is_refused(out: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        check_output(out)
    check_output("/scratch/x")
    check_output("s3://bucket/x")


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("head:8265", 2, "--address must be of the form http://HEAD:8265"),
        ("http://127.0.0.1:9", 1, "the Ray cluster at http://127.0.0.1:9 failed: "),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, status: int, words: str
) -> None:
    file = tmp_path / "alloy.yaml"
    file.write_text(alloy(tmp_path).to_yaml())
    arguments = ["submit", str(file), "--address", address, "--out", "/scratch/x"]
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {words}")
    assert len(captured.err.splitlines()) == 1


# Files that start clusters ---------------------------------------------------------------


def test_the_cluster_file_is_what_ray_expects() -> None:
    # Here, not above: Ray keeps what it finds in the environment when it is imported.
    from ray.autoscaler._private.util import (  # noqa: PLC0415
        prepare_config,
        validate_config,
    )

    config = prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))
    validate_config(config)
    workers = config["available_node_types"]["gpu_worker"]
    assert workers["resources"]["GPU"] == 1
    assert workers["min_workers"] == 0 < workers["max_workers"] <= config["max_workers"]
    for start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in start[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    # What is installed there is what the package needs.
    installed = " ".join(config["setup_commands"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [re.split(r"[><=]", library)[0] for library in project["dependencies"]]
    assert not [name for name in needed if name not in installed]


def test_the_manifest_for_kubernetes_is_a_ray_job_with_this_campaign() -> None:
    text = (ROOT / "examples" / "kuberay-rayjob.yaml").read_text()
    campaign, job = yaml.safe_load_all(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    Campaign.from_text(campaign["data"]["campaign.yaml"], "manifest")
    cluster = job["spec"]["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={cluster['rayVersion']}\n" in pins
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        (mount,) = container["volumeMounts"]
        (volume,) = spec["volumes"]
        assert volume["name"] == mount["name"]
        assert volume["configMap"]["name"] == campaign["metadata"]["name"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert f"{mount['mountPath']}/campaign.yaml" in job["spec"]["entrypoint"]
    (worker,) = cluster["workerGroupSpecs"]
    assert worker["minReplicas"] == 0 < worker["maxReplicas"]
    # Its command is one of ours, with the options that we have.
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["screening", "run"]
    assert {word for word in words if word.startswith("--")} == {"--out", "--address"}


def test_the_script_for_slurm_can_be_read_by_bash() -> None:
    script = str(ROOT / "examples" / "slurm.sh")
    run = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)  # noqa: S603, S607
    assert (run.returncode, run.stderr) == (0, "")
