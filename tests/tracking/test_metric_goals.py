"""The table of metrics: title, direction and format."""

from __future__ import annotations

import pytest

from lit_triwave.tracking.metric_goals import goal, shown, title


@pytest.mark.parametrize(
    ("name", "direction", "words", "value", "text"),
    [
        ("test/max_error", "min", "test maximum error", 0.0361, "3.61e-02"),
        ("val/mse_mean", "min", "validation MSE", 1.5e-6, "1.50e-06"),
        ("val/top5_accuracy", "max", "validation top-5 accuracy", 0.98765, "98.77%"),
        ("test/calibration_error", "min", "test calibration error", 0.0123, "1.23%"),
        ("test/r2", "max", "test R²", 1 - 2.5e-9, "0.99999999750"),
        ("fit_seconds", "min", "time of the steps", 7.49, "7.5 s"),
        ("parameters", "min", "parameters", 12345, "12,345"),
        ("train_loss", "min", "training loss", 0.25, "0.2500"),
        ("linear_regions/final", None, "linear_regions final", 32, "32"),
    ],
)
def test_one_table_says_what_a_metric_is_called_which_way_is_better_and_how_it_is_shown(
    name: str, direction: str | None, words: str, value: float, text: str
) -> None:
    assert (goal(name), title(name), shown(name, value)) == (direction, words, text)


def test_a_title_may_have_its_unit() -> None:
    assert title("fit_seconds", unit=True) == "time of the steps / s"
    assert title("parameters", unit=True) == "parameters"


@pytest.mark.parametrize(
    ("direction", "names"),
    [
        (
            "max",
            "val_acc val/f1 f1_macro val_acc1 val_MulticlassF1Score Accuracy/val valid_mAP test_mean_iou",
        ),
        ("min", "val_loss val_loss_epoch val_rmse error_rate Loss/val val_MeanSquaredError val_perplexity"),
        (None, "val_score neg_mean_squared_error val_lr map_loss_ratio"),
    ],
)
def test_a_metric_of_ones_own_has_the_direction_that_its_name_says(direction: str | None, names: str) -> None:
    assert {name: goal(name) for name in names.split()} == dict.fromkeys(names.split(), direction)
