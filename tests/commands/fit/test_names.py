"""Names that a command finds in any folder: shipped configs, and this project's `datamodules`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_triwave.cli import OwnDataModules, main, with_shipped_configs
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", ["stack.yaml", "configs/stack.yaml"])
def test_shipped_configs_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(REPOSITORY / "configs/stack.yaml")
    assert with_shipped_configs(["fit", "--config", name]) == ["fit", "--config", shipped]
    assert with_shipped_configs(["fit", f"--config={name}"]) == ["fit", f"--config={shipped}"]


def test_a_file_of_ones_own_comes_before_a_shipped_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stack.yaml").touch()
    for words in (["--config", "stack.yaml"], ["--config", "absent.yaml"], ["--config"], ["--config=../stack.yaml"]):
        assert with_shipped_configs(words) == words


def test_a_datamodules_folder_of_ones_own_does_not_hide_ours(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datamodules").mkdir()
    spec = OwnDataModules().find_spec("datamodules")
    assert spec is not None and spec.origin == str(REPOSITORY / "datamodules/__init__.py")
    assert spec.submodule_search_locations == [str(REPOSITORY / "datamodules"), str(tmp_path / "datamodules")]
    assert main(["--version"]) == 0
