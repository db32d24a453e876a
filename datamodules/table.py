"""Measurements in a CSV or Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from datamodules.batches import check_batches, seeded_generator
from datamodules.regression import Points, RegressionDataModule, first_true
from lit_triwave.errors import did_you_mean, reason, some

if TYPE_CHECKING:
    import pandas

_SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_SUFFIXES = (*_SEPARATORS, ".parquet")
_MIN_ROWS = 4


class TableDataModule(RegressionDataModule):
    """Columns of a file as inputs and target, split at random.

    The domain of an input is its range over the whole file. Otherwise a test row outside the training rows' range would
    have to be refused. A split whose fraction is 0 is the training set itself.

    Args:
        path: file ending in .csv, .csv.gz, .tsv, .tsv.gz or .parquet, with named columns and at least 4 rows.
        inputs: names of the input columns, in the order of the columns of x; numbers, none of them constant.
        target: name of the target column; numbers.
        val_fraction: share of the rows held out for validation, in [0, 1).
        test_fraction: share of the rows held out for the test, in [0, 1); both together below 1.
        predict_path: file with the input columns to predict at, within the domain. Its target column may be missing,
            and targets are then nan. None: the test rows.
        batch_size: training rows in a global batch, over all ranks together; None for all of them.
        seed: seed of the split and of the order of the training rows, at least 0.

    Raises:
        ValueError: an argument, the file or a value in it cannot be used; the message names it.
        FileNotFoundError: a file does not exist.
    """

    def __init__(
        self,
        path: str,
        inputs: list[str],
        target: str,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        predict_path: str | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        check_batches(batch_size, seed)
        _check_fractions(val_fraction, test_fraction)
        if not inputs:
            raise ValueError("inputs must name at least one column, got none")
        for name in inputs:
            if name == target or inputs.count(name) > 1:
                raise ValueError(f"inputs and target must be different columns, got {name!r} more than once")
        table = _read(path)
        if len(table) < _MIN_ROWS:
            raise ValueError(f"{path} must have at least {_MIN_ROWS} rows, got {len(table)}")
        x = torch.stack([_column(table, path, name) for name in inputs], dim=1)
        y = _column(table, path, target)
        domain = {name: _range(x[:, j], path, name) for j, name in enumerate(inputs)}

        order = torch.randperm(len(y), generator=seeded_generator(seed, "split"))
        n_val, n_test = _share(val_fraction, len(y)), _share(test_fraction, len(y))
        n_train = len(y) - n_val - n_test
        if n_train < 2:
            raise ValueError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} leave {n_train} of {len(y)} rows for "
                "training: at least 2 are needed"
            )
        # Sorted, so that rows, and predictions for them, keep the order of the file.
        train, val, test = (
            rows.sort().values for rows in (order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :])
        )
        super().__init__(
            domain,
            train=Points(x[train], y[train]),
            val=Points(x[val], y[val]) if len(val) else Points(x[train], y[train]),
            test=Points(x[test], y[test]) if len(test) else Points(x[train], y[train]),
            predict=None if predict_path is None else _predict_points(predict_path, domain, target),
            batch_size=batch_size,
            seed=seed,
        )
        self.target_name = target


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    for key, fraction in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"{key} must be in [0, 1), got {fraction}")
    if val_fraction + test_fraction >= 1:
        raise ValueError(f"val_fraction {val_fraction} and test_fraction {test_fraction} must sum to less than 1")


def _share(fraction: float, rows: int) -> int:
    return max(1, round(fraction * rows)) if fraction > 0 else 0


def _range(column: Tensor, path: str, name: str) -> tuple[float, float]:
    lower, upper = (float(bound) for bound in column.aminmax())
    if lower == upper:
        raise ValueError(f"{path}: input column {name!r} is constant ({lower:g}): leave it out of inputs")
    return lower, upper


def _predict_points(path: str, domain: dict[str, tuple[float, float]], target: str) -> Points:
    table = _read(path)
    if len(table) == 0:
        raise ValueError(f"{path} has no rows to predict at")
    columns = []
    for name, (lower, upper) in domain.items():
        column = _column(table, path, name)
        row = first_true((column < lower) | (column > upper))
        if row is not None:
            raise ValueError(
                f"{path}: {float(column[row])!r} in column {name!r} at {_position(path, row)} is outside the domain "
                f"[{lower!r}, {upper!r}] of the training file: predictions are not extrapolated"
            )
        columns.append(column)
    if target in table.columns:
        y = _column(table, path, target, finite=False)
    else:
        y = torch.full((len(table),), torch.nan, dtype=torch.float64)
    return Points(torch.stack(columns, dim=1), y)


def _read(path: str) -> pandas.DataFrame:
    """Reads the file as a table, or raises a one-line error."""
    try:
        import pandas  # takes longer to import than most files to read: only when there is a table
    except ImportError:
        raise ValueError(f"reading {path} needs pandas: pip install pandas pyarrow") from None

    file = Path(path).expanduser()
    suffix = next((suffix for suffix in _SUFFIXES if file.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"path must end in {', '.join(_SUFFIXES)}, got {path}")
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such file" if not file.exists() else f"{path} is not a file")
    try:
        if suffix == ".parquet":
            stored: pandas.DataFrame = pandas.read_parquet(file).reset_index(drop=True)
            return stored
        # Numbers keep their last digit, so that a domain is the same in every file. pandas 3.1 does so by default.
        old = tuple(int(part) for part in pandas.__version__.split(".")[:2]) < (3, 1)
        exact: dict[str, Any] = {"float_precision": "round_trip"} if old else {}
        table: pandas.DataFrame = pandas.read_csv(file, sep=_SEPARATORS[suffix], skipinitialspace=True, **exact)
    except Exception as error:  # pandas, pyarrow and gzip raise many kinds, some of several lines
        raise ValueError(f"{path} cannot be read as {suffix[1:]}: {reason(error)}") from None
    if not isinstance(table.index, pandas.RangeIndex):  # surplus fields became an index and shifted all names
        raise ValueError(f"{path}: rows have more fields than the header has names")
    return table


def _column(table: pandas.DataFrame, path: str, name: str, finite: bool = True) -> Tensor:
    """Returns one column as float64, (rows,), or raises a one-line error that says what is wrong and where."""
    import pandas

    if name not in table.columns:
        known = [str(column) for column in table.columns]
        near = did_you_mean(name, known)
        raise ValueError(f"{path} has no column {name!r}; its columns are {some(known, 20)}{near}")
    column = table[name]
    if isinstance(column, pandas.DataFrame):
        raise ValueError(f"{path} has several columns {name!r}")
    kind = pandas.api.types
    if kind.is_object_dtype(column) or kind.is_string_dtype(column):
        numbers = pandas.to_numeric(column, errors="coerce")
        row = first_true(torch.from_numpy((numbers.isna() & column.notna()).to_numpy(dtype=bool, copy=True)))
        if row is not None:
            value = str(column.iloc[row])
            raise ValueError(f"{path}: column {name!r} is not numeric: {value[:40]!r} at {_position(path, row)}")
        column = numbers
    elif not kind.is_numeric_dtype(column) or kind.is_complex_dtype(column):
        raise ValueError(f"{path}: column {name!r} is not numeric but {column.dtype}")
    values = torch.from_numpy(column.to_numpy(dtype="float64", na_value=float("nan"), copy=True))
    row = first_true(~values.isfinite())
    if finite and row is not None:
        raise ValueError(f"{path}: non-finite value {values[row]:g} in column {name!r} at {_position(path, row)}")
    return values


def _position(path: str, row: int) -> str:
    """Describes where a user finds a row; the header of a text file is its first line."""
    if path.lower().endswith(".parquet"):
        return f"row {row + 1} (counted from 1)"
    return f"line {row + 2} (the header is line 1, blank lines not counted)"
