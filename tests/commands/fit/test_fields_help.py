"""The help of `fit` shows the fields of models and data with their docstrings."""

from __future__ import annotations

import pytest

from lit_triwave.cli import main
from tests.conftest import REPOSITORY


def words(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["fit", *args, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_help_has_the_fields_of_all_models_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    text = words(capsys)
    assert text.startswith("usage: python -m lit_triwave fit --config FILE [--KEY VALUE ...]")
    assert "--model lit_triwave.modules.FunctionRegressor" in text and "--data datamodules.CIFAR10DataModule" in text
    assert "--model.members MEMBERS number of stacks whose mean is one seed" in text
    assert "--model.pretrain.epochs" in text
    assert "--model.data_curvature" not in text  # comes from the data
    assert "``max_epochs = -1``. Here: −1 trains all stages; a number below" in text


def test_the_help_of_a_config_has_the_fields_of_its_model_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(REPOSITORY / "configs/table.yaml")
    text = words(capsys, "--config", config)
    assert "--data.thousands THOUSANDS sign between groups of three digits" in text
    assert "--data.expression" not in text and "--model lit_triwave.modules.ImageClassifier" not in text
    assert "--data datamodules.DigitsDataModule" in words(capsys, f"--config={config}", "--data", "DigitsDataModule")
