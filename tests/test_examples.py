"""The examples in the docstrings of the Python interface give what they say."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

import pytest

import model.api
import screening.api

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.mark.filterwarnings("ignore")  # of the libraries that they load
@pytest.mark.parametrize(("module", "fewest"), [(screening.api, 8), (model.api, 3)])
def test_examples(
    module: ModuleType, fewest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    assert attempted >= fewest
