"""What comes from others is data: campaign files, checkpoints, tables, results, names."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_results import CAMPAIGN, results, write_candidates

from model.checkpoint import CheckpointError, checkpoint_path, load_checkpoint
from model.network import NetworkConfig
from screening.cli import main
from screening.errors import UserError
from screening.export import export_candidates
from screening.reference_file import MOST_PHASES, read_reference_file
from screening.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


class Opens:
    """What an attacker pickles: unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one sentence with which a command refuses its input."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (sentence,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(sentence) < 600
    return sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: !!python/object/apply:os.system ['touch {mark}']\n", "tags are not used"),
        ("name: !!python/name:os.system\n", "tags are not used"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nname: [*b, *b]\n", "references"),
        (f"name: {'x' * 10_000_000}\n", "bytes"),
        ("name: " + "[" * 5000 + "]" * 5000 + "\n", "nested"),
        (f"{CAMPAIGN}seed: {'9' * 500_000}\n", "digits"),
        (f"{CAMPAIGN}relaxation: {{fmax: .nan}}\n", "relaxation.fmax"),
        (f"{CAMPAIGN}relaxation: {{fmax: .inf}}\n", "relaxation.fmax"),
        (f"{CAMPAIGN}filters: {{min_distance: -.inf}}\n", "filters.min_distance"),
        (CAMPAIGN.replace("name: small", "name: ../../etc/cron.d/x"), "name"),
        (CAMPAIGN.replace("samples_per_cell: 3", "samples_per_cell: 1" + "0" * 30), "samples_per"),
        (f'{CAMPAIGN}output: "a\\0b"\n', "output"),
        (f"{CAMPAIGN}output: file:///etc\n", "output"),
        (f"{CAMPAIGN}output: s3://key:secret@bucket/x\n", "output"),
        (CAMPAIGN.replace("unit_size: 2", "checkpoint: ../../../etc/passwd"), "checkpoint"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_hostile_campaign_file_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file, mark = tmp_path / "c.yaml", tmp_path / "mark"
    file.write_text(text.replace("{mark}", str(mark)))
    out = tmp_path / "out"
    arguments = [] if "output:" in text else ["--out", str(out)]
    assert words in refused(capsys, "run", str(file), *arguments)
    assert not mark.exists()
    assert not out.exists()


def altered(path: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> str:
    """Write a checkpoint like the shipped one, but for what a function changes."""
    with safe_open(checkpoint_path("mp20"), framework="pt") as file:
        metadata = dict(file.metadata())
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    change(weights, metadata)
    save_file(weights, path, metadata)
    return str(path)


def with_network(**sizes: Any) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(_: dict[str, Any], metadata: dict[str, str]) -> None:
        metadata["network"] = json.dumps({**json.loads(metadata["network"]), **sizes})

    return change


def with_weight(value: Any) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(weights: dict[str, Any], _: dict[str, str]) -> None:
        weights["edge_output.weight"] = value(weights["edge_output.weight"])

    return change


def with_record(text: str) -> Callable[[dict[str, Any], dict[str, str]], None]:
    return lambda _, metadata: metadata.update(training_record=text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_network(hidden=10**9), "hidden must be a whole number from 1 to 4096"),
        (with_network(n_blocks=10**9), "n_blocks must be"),
        (with_network(n_neighbours=-1), "n_neighbours must be"),
        (with_network(hidden=128), "size mismatch"),
        (with_weight(lambda w: w * float("nan")), "edge_output.weight is not of finite"),
        (with_weight(lambda w: w.to(torch.float16)), "edge_output.weight is not of finite"),
        (with_record("[" * 100_000), "does not describe a score model"),
        (with_record("NaN, and no JSON"), "does not describe a score model"),
    ],
)
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    path = altered(tmp_path / "hostile.safetensors", change)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


def test_an_unaltered_copy_is_accepted(tmp_path: Path) -> None:
    copy = load_checkpoint(altered(tmp_path / "copy.safetensors", lambda *_: None))
    assert copy.fingerprint == load_checkpoint("mp20").fingerprint
    assert all(weight.requires_grad for weight in copy.network.parameters())


def test_a_pickle_that_is_called_safetensors_is_not_unpickled(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Opens(mark)))
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(str(path))
    torch.save({"weights": Opens(mark)}, path)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("length", [2**63, 2**40, 100])
def test_a_header_that_promises_too_much_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(struct.pack("<Q", length) + header.ljust(100))
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(str(path))


def test_sizes_of_a_training_configuration_are_bounded() -> None:
    with pytest.raises(ValueError, match="n_radial must be a whole number from 1 to 256, got 0"):
        NetworkConfig(n_radial=0)


def test_a_table_that_unpacks_to_billions_of_rows_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    part = pa.table({"formula": ["Cu"] * 2**16, "energy_per_atom": [0.0] * 2**16})
    with pq.ParquetWriter(path, part.schema, compression="zstd") as writer:
        for _ in range(MOST_PHASES // 2**16 + 1):
            writer.write_table(part)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"has 1,\d\d\d,\d\d\d rows; at most 1,000,000 are read"):
        read_reference_file(path, ["Cu"])


@pytest.mark.parametrize("energy", ["nan", "inf", "-inf", "1e400"])
def test_energies_that_are_no_numbers_are_refused(tmp_path: Path, energy: str) -> None:
    path = tmp_path / "phases.csv"
    path.write_text(f"formula,energy_per_atom\nCu,{energy}\n")
    with pytest.raises(UserError, match="energy_per_atom"):
        read_reference_file(path, ["Cu"])


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a": 1e999', "\x00\xff", "[1, 2]", "3"])
@pytest.mark.parametrize("name", ["_progress.json", "_runs.json", "fingerprints.json"])
def test_a_directory_with_hostile_files_can_be_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    results(tmp_path, n_done=1)
    (tmp_path / name).write_text(content, encoding="latin-1")
    assert main(["status", str(tmp_path)]) == 0
    assert "1 of 8 done" in capsys.readouterr().out


def test_a_mark_nested_without_end_proves_nothing(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=1)
    (mark,) = (tmp_path / "_done").iterdir()
    mark.write_text("[" * 200_000)
    assert store.finished_units() == {}


def test_names_in_a_table_do_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    store = results(tmp_path / "results", n_done=1)
    row = store.read_relaxed().to_pylist()[0]
    hostile = {
        **row,
        "sample_id": "../../../hostile\0\n" + "x" * 5000,
        "chemical_formula_reduced": "/etc/passwd",
        "space_group_it_number": 221,
        "e_above_hull": 0.0,
        "is_representative": True,
        "converged": True,
    }
    write_candidates(store, [hostile])
    before = set(tmp_path.iterdir())
    out = tmp_path / "results" / "crystals"
    (path,) = export_candidates(Store(store.uri), 1, "cif", out)
    assert Path(path).resolve().parent == out.resolve()
    assert len(os.path.basename(path)) < 255  # noqa: PTH119 - what a file system takes
    assert set(tmp_path.iterdir()) == before
