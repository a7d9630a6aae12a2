"""What is kept of an evaluation under way, so that the same command goes on where it stopped.

``R.json.partial/`` holds the configuration and one file for each finished target; it goes when the
result is written.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from screening.errors import RunError, UserError, shown
from screening.files import LocalFiles, hold

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]

_CONFIGURATION = "configuration.json"
_TARGETS = "targets"
_LOCK = "lock"


class PartialResult:
    """The files of one evaluation.

    Args:
        out: The result's file.
        configuration: Everything that the figures depend on, by name.

    Raises:
        UserError: if the file or its folder is of an evaluation with another configuration, or
            cannot be written to, or another process is at it.
    """

    def __init__(self, out: Path, configuration: Row) -> None:
        self.configuration = configuration
        self._out = out
        self._directory = out.with_name(f"{out.name}.partial")
        self._files = LocalFiles(self._directory)
        if out.suffix != ".json" or out.is_dir() or not out.parent.is_dir():
            raise UserError(
                f"--out is {shown(str(out), 200)}; allowed: a file name that ends in .json, in a "
                f"directory that exists"
            )
        if out.exists():
            self._refuse_other(out, (_read(out) or {}).get("configuration"))
            self.run = 0
            return
        stored = self._directory / _CONFIGURATION
        if stored.exists():
            self._refuse_other(self._directory, _read(stored))
        else:
            self._write(_CONFIGURATION, configuration, UserError)
        hold(self._directory / _LOCK)
        self.run = 1 + max((entry["run"] for entry in self._entries().values()), default=0)

    def _refuse_other(self, path: Path, stored: Any) -> None:
        """Refuse to mix figures that cannot be compared."""
        if stored == self.configuration:
            return
        before = stored if isinstance(stored, dict) else {}
        changed = [
            f"{name} ({before.get(name)} before, {self.configuration.get(name)} now)"
            for name in {**before, **self.configuration}
            if before.get(name) != self.configuration.get(name)
        ]
        raise UserError(
            f"{path} is of another evaluation: {', '.join(changed)}; choose another --out, or "
            f"remove it"
        )

    def finished_result(self) -> Row | None:
        """Return the result if it has been written."""
        return _read(self._out) if self._out.exists() else None

    def finished_targets(self) -> dict[str, Row]:
        """Return the figures of the finished targets, by key."""
        return {key: entry["figures"] for key, entry in self._entries().items()}

    def keep(self, key: str, figures: Row, elapsed_s: float) -> None:
        """Write the figures of a target that is finished.

        Args:
            key: of the target.
            figures: plain values.
            elapsed_s: seconds since this run began.
        """
        entry = {"figures": figures, "run": self.run, "elapsed_s": elapsed_s}
        self._write(f"{_TARGETS}/{key}.json", entry, RunError)

    def wall_s(self) -> float:
        """Return the seconds of all runs, each until its last finished target."""
        last: dict[int, float] = {}
        for entry in self._entries().values():
            last[entry["run"]] = max(last.get(entry["run"], 0.0), entry["elapsed_s"])
        return sum(last.values())

    def finish(self, result: Row) -> None:
        """Write the result, and remove what was kept beside it."""
        files = LocalFiles(self._out.parent)
        try:
            files.write(self._out.name, (json.dumps(result, indent=1) + "\n").encode())
        except OSError as error:
            raise RunError(f"{self._out} cannot be written: {error.strerror or error}") from None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _entries(self) -> dict[str, Row]:
        names = [name for name in self._files.names(_TARGETS) if name.endswith(".json")]
        found = {
            name.removesuffix(".json"): _read(self._directory / _TARGETS / name) for name in names
        }
        # A damaged file proves nothing: the target is done again.
        return {key: entry for key, entry in found.items() if isinstance(entry, dict)}

    def _write(self, name: str, value: Row, error_class: type[UserError | RunError]) -> None:
        try:
            self._files.write(name, json.dumps(value, indent=1).encode())
        except OSError as error:
            raise error_class(
                f"{self._directory / name} cannot be written: {error.strerror or error}"
            ) from None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
