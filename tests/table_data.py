"""Small tables, and their files."""

from __future__ import annotations

from pathlib import Path

import pandas
import torch

from datamodules import TableDataModule

ROWS = 40


def small_table() -> pandas.DataFrame:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, ROWS, generator=generator, dtype=torch.float64).numpy()
    return pandas.DataFrame({"a": a, "note": "text", "b": 10 * b, "out": a * b, "count": range(ROWS)})


def save(table: pandas.DataFrame, folder: Path, name: str = "data.csv") -> str:
    path = folder / name
    if name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return str(path)


def write(folder: Path, text: str, name: str = "data.csv") -> str:
    (folder / name).write_text(text, newline="")
    return str(folder / name)


def everything(data: TableDataModule) -> list[tuple[float, ...]]:
    """Returns the rows of all splits, (*inputs, target)."""
    splits = (data.train_set, data.val_set, data.test_set)
    return [(*x, y) for points in splits for x, y in zip(points.x.tolist(), points.y.tolist(), strict=True)]
