"""Trains a classifier on a folder of images, then classifies images without labels.

python examples/images.py [fit's options]
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from lit_triwave.cli import main as lit_triwave

FOLDER = Path("example_images")
DIGITS = "0369"  # each digit is a class


def write_images(folder: Path, per_class: int) -> None:
    """Writes images of handwritten digits as `digits/<class>/<number>.png`, and two more of each class as `new/`."""
    images, labels = load_digits(return_X_y=True)
    for name in DIGITS:
        of_class = [image for image, label in zip(images, labels, strict=True) if str(label) == name]
        for number, image in enumerate(of_class[: per_class + 2]):
            new = number >= per_class
            place = folder / "new" / f"{name}_{number}.png" if new else folder / "digits" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image.reshape(8, 8) * 15.9).astype("uint8")).save(place)


def main(options: list[str], folder: Path = FOLDER, per_class: int = 150) -> float:
    """Returns the accuracy on the images that were held out for the test, 0 to 1."""
    write_images(folder, per_class)
    config = ["--config", "image_folder.yaml", "--data.root", str(folder / "digits")]
    config += ["--data.image_size", "16", "--model.channels", "[16, 32]"]  # the images have 8 × 8 pixels
    run = ["--run.root", str(folder / "runs"), "--run.id", "example", "--run.wandb", "disabled"]
    for command in (
        ["fit", *config, *run, *options],
        ["predict", *config, *run, *options, "--data.predict_path", str(folder / "new")],
    ):
        if lit_triwave(command):
            raise SystemExit(f"{command[0]} failed")

    place = folder / "runs" / "image_folder" / "example"
    with (place / "predictions.csv").open() as file:
        for row in csv.DictReader(file):
            print(f"{row['file']}: {row['prediction']}, with confidence {float(row['confidence']):.0%}")
    return float(json.loads((place / "summary.json").read_text())["test/accuracy"])


if __name__ == "__main__":
    main(sys.argv[1:])
