"""Fits two columns of a table at once, predicts further rows, and exports the network.

python examples/table.py [fit's options]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sklearn.datasets import load_diabetes

from lit_triwave.cli import main as lit_triwave

FOLDER = Path("example_table")
INPUTS = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5"]
TARGETS = ["target", "s6"]  # the progress of the disease in a year, and the blood sugar


def main(options: list[str], folder: Path = FOLDER) -> dict[str, float]:
    """Returns the R² of each column on the rows that were held out for the test."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame.iloc[:-5].to_csv(folder / "patients.csv", index=False)
    frame.iloc[-5:][INPUTS].to_csv(folder / "new_patients.csv", index=False)

    # The command line, from Python. `table.yaml` is also found if the package is installed without its repository.
    data = ["--data.path", str(folder / "patients.csv"), "--data.inputs", json.dumps(INPUTS)]
    data += ["--data.target", json.dumps(TARGETS)]
    run = ["--run.root", str(folder / "runs"), "--run.id", "example", "--run.wandb", "disabled"]
    config = ["--config", "table.yaml"]
    new = ["--data.predict_path", str(folder / "new_patients.csv"), "--data.outside", "clamp"]
    place = folder / "runs" / "table" / "example"
    for command in (
        ["fit", *config, *data, *run, *options],
        ["predict", *config, *data, *run, *options, *new],
        ["export", str(place), "--overwrite"],
    ):
        if lit_triwave(command):
            raise SystemExit(f"{command[0]} failed")

    print((place / "predictions.csv").read_text())
    summary = json.loads((place / "summary.json").read_text())
    return {name: summary[f"test/{name}/r2"] for name in TARGETS}


if __name__ == "__main__":
    main(sys.argv[1:])
