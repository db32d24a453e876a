"""Compares `configs/table.yaml` with scikit-learn's gradient boosting and MLP on tables, all with default settings.

    python -m benchmarks.tables [--splits 5] [--tables friedman1,diabetes,...] [fit's options]

Each of five splits holds out another fifth of the rows for the test. The other methods train on the rest; ours uses a
tenth of the rest for validation. The MLP gets standardised inputs, as its documentation recommends, and indicators for
categories; boosting gets the categories. A result is the mean over the splits of test MSE / variance of test targets.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas
from plotly import data as plotly_data
from rich.console import Console
from rich.table import Table
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine, make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from lit_triwave.cli import main as lit_triwave

CONFIG = Path(__file__).parents[1] / "configs" / "table.yaml"
SPLITS = KFold(5, shuffle=True, random_state=0)


def friedman1() -> tuple[pandas.DataFrame, str]:
    """Returns 5 000 rows of Friedman's first function with noise of deviation 1, and five inputs without use."""
    x, y = make_friedman1(5000, noise=1.0, random_state=0)
    return pandas.DataFrame(x, columns=[f"x{i}" for i in range(1, 11)]).assign(y=y), "y"


def diabetes() -> tuple[pandas.DataFrame, str]:
    """Returns scikit-learn's 442 patients, in their own units."""
    return load_diabetes(as_frame=True, scaled=False).frame, "target"


def wine() -> tuple[pandas.DataFrame, str]:
    """Returns the alcohol of scikit-learn's 178 wines by their other twelve measurements."""
    return load_wine(as_frame=True).frame.drop(columns="target"), "alcohol"


def breast_cancer() -> tuple[pandas.DataFrame, str]:
    """Returns the mean smoothness of scikit-learn's 569 tumours by their other 29 measurements."""
    return load_breast_cancer(as_frame=True).frame.drop(columns="target"), "mean smoothness"


def gapminder() -> tuple[pandas.DataFrame, str]:
    """Returns the life expectancy in plotly's 1 704 countries and years."""
    return plotly_data.gapminder()[["year", "continent", "pop", "gdpPercap", "lifeExp"]], "lifeExp"


def tips() -> tuple[pandas.DataFrame, str]:
    """Returns the tips that plotly's 244 parties gave."""
    return plotly_data.tips(), "tip"


TABLES: dict[str, Callable[[], tuple[pandas.DataFrame, str]]] = {
    table.__name__: table for table in (friedman1, diabetes, wine, breast_cancer, gapminder, tips)
}


def ours(frame: pandas.DataFrame, target: str, test: Any, seed: int, options: list[str]) -> float:
    """Returns the relative test MSE of a fit with the shipped config."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        part = pandas.Series("train", frame.index)
        part.iloc[test] = "test"
        frame.assign(part=part).to_csv(path, index=False)
        inputs = json.dumps([name for name in frame.columns if name != target])
        data = ["--data.path", str(path), "--data.inputs", inputs, "--data.target", target, "--data.split", "part"]
        run = ["--seed_everything", str(seed), "--run.root", folder, "--run.id", "r", "--run.wandb", "disabled"]
        if lit_triwave(["fit", "--config", str(CONFIG), *data, "--data.seed", str(seed), *run, *options]):
            raise SystemExit("the fit failed")
        summary = json.loads((Path(folder) / "table" / "r" / "summary.json").read_text())
    return float(1 - summary["test/r2"])


def rivals(frame: pandas.DataFrame, target: str, test: Any, seed: int) -> dict[str, float]:
    """Returns the relative test MSE of scikit-learn's defaults."""
    x, y, left = frame.drop(columns=target), frame[target], np.setdiff1d(np.arange(len(frame)), test)
    x = x.astype(dict.fromkeys(x.select_dtypes(exclude="number"), "category"))
    words = (OneHotEncoder(), make_column_selector(dtype_include="category"))
    scaled = make_column_transformer(words, (StandardScaler(), make_column_selector(dtype_include="number")))
    models = {
        "boosting": HistGradientBoostingRegressor(categorical_features="from_dtype", random_state=seed),
        "MLP": make_pipeline(scaled, MLPRegressor(random_state=seed)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it does not converge in 200 epochs, its default
        found = {name: model.fit(x.iloc[left], y.iloc[left]).predict(x.iloc[test]) for name, model in models.items()}
    return {
        name: float(((value - y.iloc[test]) ** 2).mean() / y.iloc[test].var(ddof=0)) for name, value in found.items()
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--tables", default=",".join(TABLES))
    asked, options = parser.parse_known_args()
    os.environ["WANDB_MODE"] = "disabled"
    shown = Table("table", "rows", "ours", "boosting", "MLP", "seconds a fit")
    for name in asked.tables.split(","):
        frame, target = TABLES[name]()
        found: dict[str, list[float]] = {"ours": [], "boosting": [], "MLP": []}
        seconds = 0.0
        for seed, (_, test) in enumerate([*SPLITS.split(frame)][: asked.splits]):
            began = time.monotonic()
            found["ours"].append(ours(frame, target, test, seed, options))
            seconds += time.monotonic() - began
            for rival, value in rivals(frame, target, test, seed).items():
                found[rival].append(value)
        means = [f"{sum(values) / len(values):.4f}" for values in found.values()]
        shown.add_row(name, str(len(frame)), *means, f"{seconds / asked.splits:.0f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
