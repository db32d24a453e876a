"""A table in a file: its rows as inputs and targets, divided into training, validation and test."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.batches import check_batches, check_fractions, seeded_generator
from datamodules.regression import Points, RegressionDataModule, first_true
from datamodules.table_columns import InputColumns, Missing, Uneven
from datamodules.table_files import TableFile
from lit_triwave.errors import TriwaveError, some

_MIN_ROWS = 4
_FEW_COPIES = 0.01
"""Up to this share, test rows that are equal to training rows change the test error little."""
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")
_MEANING = {
    "kind": "kind",
    "categories": "list of categories",
    "missing": "replacement of missing values",
    "start": "start",
    "scale": "scale",
}
"""Key of a column's fitted value ↦ its name in an error."""


class TableDataModule(RegressionDataModule):
    """Columns of a file as inputs and target, split at random, by a column, or with a separate test file.

    The domain of an input is its range over the whole file. Otherwise a test row outside the training rows' range would
    have to be refused. A split without rows is the training set itself.

    Text and booleans are categories. The fitted values of the columns (categories, replacements of missing values) are
    in every checkpoint, and in a file beside every export.

    Args:
        path: a text file with a header (.csv, .tsv, .txt, also compressed) or a Parquet file, with at least 4 rows.
        inputs: names of the input columns, in the order of the columns of x; none of them constant.
        target: name of the target column, or of several; numbers.
        val_fraction: share of the rows held out for validation, in [0, 1).
        test_fraction: share of the rows held out for the test, in [0, 1); both together below 1.
        split: column that says for each row whether it is for `train`, `val` or `test`. If no row is for validation,
            `val_fraction` of the training rows are drawn.
        test_path: file with the test rows; then no test rows are drawn from `path`.
        predict_path: file with the input columns to predict at. Its target column may be missing, and targets are then
            nan. None: the test rows.
        outside: `"clamp"` takes values of `predict_path` outside the domain to its nearest end; None refuses them.
        missing: what to do about rows with missing values: `"drop"` them, or take the `"median"` or `"mean"` of the
            training rows; None refuses them. Rows without a target are dropped, unless this is None.
        categorical: input columns of numbers that are categories, such as codes.
        ordinal: input columns whose categories are numbered in sorted order, numbers by their value. Each category of
            the other columns becomes a column of 0 and 1.
        uneven: transform of input columns of numbers that have half of their values within 5 % of their range at one
            end, such as incomes: `"asinh"` reads them nearly as their logarithms. None does not transform them.
        sep: separator of a text file; None: found among comma, semicolon, tab, | and blanks. This and the following
            are options of `pandas.read_csv`, with its defaults.
        decimal: decimal sign.
        encoding: encoding of the text.
        comment: sign that begins a comment; on the command line it needs two pairs of quotes, `"'#'"`.
        thousands: sign between groups of three digits.
        na_values: further words or numbers for a missing value, one or a list, such as `-` or `[-999, "?"]`.
        keep_default_na: whether the words that pandas knows, such as `NA` and `null`, stand for missing values. Empty
            cells and `na_values` always do.
        compression: compression of the file.
        batch_size: training rows in a global batch, over all ranks together; None for all of them.
        seed: seed of the split and of the order of the training rows, at least 0.

    Attributes:
        columns: the conversion of the columns of the file to inputs.
        remarks: lines with remarks about the data for the user.
        validates: whether rows are held out for validation.

    Raises:
        ValueError: an argument, the file or a value in it cannot be used; the message names it.
        FileNotFoundError: a file does not exist.
    """

    def __init__(
        self,
        path: str,
        inputs: list[str],
        target: list[str] | str,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
        outside: Literal["clamp"] | None = None,
        missing: Missing | None = None,
        categorical: list[str] | None = None,
        ordinal: list[str] | None = None,
        uneven: Uneven | None = None,
        sep: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        comment: str | None = None,
        thousands: str | None = None,
        na_values: list[str | int | float] | str | int | float | None = None,
        keep_default_na: bool = True,
        compression: str | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        check_batches(batch_size, seed)
        check_fractions(val_fraction, test_fraction)
        if split is not None and test_path is not None:
            raise ValueError("split and test_path must not both be given: the test rows are in one of them")
        targets = [target] if isinstance(target, str) else list(target)
        named = [*inputs, *targets, *([] if split is None else [split])]
        if not inputs or not targets:
            raise ValueError(f"{'target' if inputs else 'inputs'} must name at least one column, got none")
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"inputs, target and split must be different columns, got {name!r} more than once")
        self._options = {
            "sep": _unquoted(sep),
            "decimal": _unquoted(decimal),
            "encoding": encoding,
            "comment": _unquoted(comment),
            "thousands": _unquoted(thousands),
            "na_values": _na_words(na_values, keep_default_na),
            "keep_default_na": None if keep_default_na else False,
            "compression": compression,
        }
        file = TableFile(path, named, self._options)
        if len(file) < _MIN_ROWS:
            raise ValueError(f"{path} must have at least {_MIN_ROWS} rows, got {len(file)}")
        self._targets, self._outside = targets, outside
        self.columns = InputColumns(file, inputs, categorical or [], ordinal or [], missing, targets, uneven)
        self.remarks: list[str] = file.remarks([*inputs, *targets])
        raw, y, kept = self._rows(file)
        if test_path is not None:
            test_fraction = 0.0
        if split is None:
            train, val, test = _drawn(len(kept), val_fraction, test_fraction, seed)
        else:
            train, val, test = _assigned(file, split, kept, val_fraction, seed)
        self._digest = _digest(raw.iloc[train.numpy()], y[train])
        self.columns.fit(raw.iloc[train.numpy()])
        x = self.columns.encode(raw)
        domain = {name: _range(x[:, j], path, name) for j, name in enumerate(self.columns.names)}
        self.remarks += self.columns.remarks(domain, x)

        def points(rows: Tensor) -> Points:
            return Points(x[rows], y[rows]) if len(rows) else Points(x[train], y[train])

        self._asked, self._asked_rows = file, kept[test if len(test) else train]
        tested = points(test)
        if test_path is not None:
            self._asked, tested, self._asked_rows = self._other(test_path, needs_target=True)
            lower, upper = torch.tensor(list(domain.values()), dtype=torch.float64).T
            outside_rows = int(((tested.x < lower) | (tested.x > upper)).any(1).sum())
            if outside_rows:
                self.remarks.append(
                    f"{test_path}: {outside_rows} of {len(tested)} rows are outside the domain of {path}: the network "
                    "takes them to its nearest end"
                )
        predicted = None
        if test_path is not None or len(test):
            copies = _count_copies(points(train), tested)
            if copies > _FEW_COPIES * len(tested):
                self.remarks.append(
                    f"{copies} of {len(tested)} test rows are equal to training rows in all inputs and targets: if "
                    "they are copies, remove them, as test errors are too low with them"
                )
        else:
            self.remarks.append("no rows are held out for the test: test errors are those of the training rows")
        if predict_path is not None:
            self._asked, predicted, self._asked_rows = self._other(predict_path, domain=domain)
        super().__init__(
            domain, points(train), points(val), tested, predict=predicted, batch_size=batch_size, seed=seed
        )
        self.target_name = ", ".join(targets)
        self.validates = len(val) > 0

    @property
    def training_digest(self) -> str:
        return self._digest

    @property
    def target_names(self) -> list[str]:
        """Name of each target."""
        return self._targets

    def _rows(self, file: TableFile, needs_target: bool = True) -> tuple[Any, Tensor, Tensor]:
        """Returns the inputs of the n usable rows as in the file, their targets, (n,) or (n, F), and their indices,
        (n,) int64."""
        raw = self.columns.raw(file)
        usable = self.columns.present(file, raw)
        unknown = torch.full((len(file),), torch.nan, dtype=torch.float64)
        found = [
            file.numbers(name, is_target=True) if needs_target or name in file.frame.columns else unknown
            for name in self._targets
        ]
        known = torch.ones_like(usable)
        for name, column in zip(self._targets, found, strict=True):
            row = first_true(column.isnan())
            if row is None or not needs_target:
                continue
            if bool(column.isnan().all()):
                raise ValueError(f"{file.path}: target column {name!r} has no value in any of its {len(file)} rows")
            if self.columns.missing is None:
                raise ValueError(
                    f"{file.path}: missing value in target column {name!r} at {file.position(row)}: correct it, or set "
                    "missing to drop, median or mean"
                )
            known &= ~column.isnan()
        dropped = {"a target": int((~known).sum()), "an input": int((known & ~usable).sum())}
        usable &= known
        self.columns.check_categories(file, raw, usable)
        y = found[0] if len(found) == 1 else torch.stack(found, 1)
        for what, count in dropped.items():
            if count:
                self.remarks.append(f"{file.path}: {count} of {len(file)} rows dropped, as {what} is missing")
        rows = usable.nonzero()[:, 0]
        if not len(rows):
            raise ValueError(f"{file.path} has no rows to use: values are missing in all of its {len(file)} rows")
        return raw.iloc[rows.numpy()], y[rows], rows

    def _other(
        self, path: str, needs_target: bool = False, domain: dict[str, tuple[float, float]] | None = None
    ) -> tuple[TableFile, Points, Tensor]:
        """Reads the rows of another file; returns the file, its points, and the indices of their rows."""
        file = TableFile(path, [column["name"] for column in self.columns.state], self._options)
        if not len(file):
            raise ValueError(f"{path} has no rows to {'test' if needs_target else 'predict'} at")
        raw, y, rows = self._rows(file, needs_target)
        x = self.columns.encode(raw)
        for j, (name, (lower, upper)) in enumerate((domain or {}).items()):
            row = first_true((x[:, j] < lower) | (x[:, j] > upper))
            if row is not None and self._outside is None:
                column, (value, least, most) = self.columns.as_read(name, float(x[row, j]), lower, upper)
                raise ValueError(
                    f"{path}: {value!r} in column {column!r} at {file.position(int(rows[row]))} is outside "
                    f"the domain [{least!r}, {most!r}] of the training file: predictions are not extrapolated; "
                    "outside: clamp takes the nearest value inside"
                )
            x[:, j].clamp_(lower, upper)
        return file, Points(x, y), rows

    def prediction_columns(self) -> dict[str, list[Any]]:
        """Returns columns that identify the predicted rows: number in the file, inputs as read, and target."""
        names = [column["name"] for column in self.columns.state]
        names += [name for name in self._targets if name in self._asked.frame.columns]
        rows = self._asked_rows
        chosen = self._asked.frame[names].iloc[rows.numpy()].astype(object)
        numbers = {"row" if "row" not in names else "row_number": (rows + 1).tolist()}
        return numbers | {name: chosen[name].where(chosen[name].notna(), "").tolist() for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the epoch and the fitted values of the columns."""
        return super().state_dict() | {"columns": self.columns.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the position, and the order of ordinal categories.

        Raises:
            TriwaveError: the checkpoint has other columns.
        """
        state = dict(state_dict)
        there = state.pop("columns", self.columns.state)
        names, own = ([column["name"] for column in columns] for columns in (there, self.columns.state))
        if names != own:
            there_are = f"inputs must be {', '.join(names)} in this order, as in the checkpoint"
            raise TriwaveError(f"{there_are}, got {', '.join(own)}")
        for one, two in zip(there, self.columns.state, strict=False):
            if one["kind"] == two["kind"] == "ordinal" and {**one, "categories": two["categories"]} == two:
                self._renumber(two, one["categories"])  # earlier versions sorted numbers as text
            key = next((key for key in one | two if one.get(key) != two.get(key)), None)
            if key is not None:
                raise TriwaveError(
                    f"column {two['name']!r} must be as in the checkpoint: its {_MEANING.get(key, key)} is "
                    f"{_said(one, key)} there, and {_said(two, key)} here: give the data and options of the training"
                )
        super().load_state_dict(state)

    def _renumber(self, column: dict[str, Any], categories: list[str]) -> None:
        """Numbers the categories of an ordinal column by their positions in a list of all of them."""
        if column["categories"] == categories or not {*column["categories"]} <= {*categories}:
            return
        place = torch.tensor([categories.index(word) for word in column["categories"]], dtype=torch.float64)
        j = self.columns.names.index(column["name"])
        for points in {self.train_set, self.val_set, self.test_set, self.predict_set}:
            points.x[:, j] = place[points.x[:, j].long()]
        self.domain[column["name"]] = (float(place.min()), float(place.max()))
        column["categories"] = categories


def _said(column: dict[str, Any], key: str) -> str:
    value = column.get(key, "none")
    return some(value, 10) if isinstance(value, list) else str(value)


def _unquoted(sign: str | None) -> str | None:
    """Returns a sign without quotes. On the command line some signs need quotes, and YAML may leave them."""
    return sign.strip("'\"") or sign if sign else sign


def _na_words(given: list[str | int | float] | str | int | float | None, keep_default: bool) -> list[str] | None:
    """Returns the words for a missing value as pandas takes them; without its own words, an empty cell is one."""
    if isinstance(given, str) and given[:1] + given[-1:] == "[]":
        raise ValueError(
            f"na_values must be a word or a list of words, got {given}: put signs in quotes, as in [NA, '?']"
        )
    if given is None and keep_default:
        return None
    words = given if isinstance(given, list) else [] if given is None else [given]
    words = words if keep_default else [*words, ""]
    return [_unquoted(word) or word if isinstance(word, str) else str(word) for word in words]


def _share(fraction: float, rows: int) -> int:
    return max(1, round(fraction * rows)) if fraction > 0 else 0


def _drawn(count: int, val_fraction: float, test_fraction: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws the rows for training, validation and test, each sorted, so that they keep the order of the file."""
    order = torch.randperm(count, generator=seeded_generator(seed, "split"))
    n_val, n_test = _share(val_fraction, count), _share(test_fraction, count)
    n_train = count - n_val - n_test
    if n_train < 2:
        raise ValueError(
            f"val_fraction and test_fraction must leave at least 2 rows for training, got {val_fraction} and "
            f"{test_fraction}, which leave {n_train} of {count}"
        )
    train, val, test = torch.split(order, [n_train, n_val, n_test])
    return train.sort().values, val.sort().values, test.sort().values


def _assigned(
    file: TableFile, split: str, kept: Tensor, val_fraction: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the rows for training, validation and test, from a column of the file."""
    column = file.column(split)
    words = column.astype(str).str.strip().str.lower()
    for row in kept.tolist():
        if words.iloc[row] not in _SPLITS:
            got = repr(words.iloc[row]) if column.notna().iloc[row] else "an empty cell"
            raise ValueError(
                f"{file.path}: column {split!r} must be train, val or test, got {got} at {file.position(row)}"
            )
    said = words.iloc[kept.numpy()].map(_SPLITS).to_numpy()
    train, val, test = (torch.from_numpy((said == name).nonzero()[0]) for name in ("train", "val", "test"))
    if not len(val) and val_fraction and len(train) >= _MIN_ROWS:
        fit, held, _ = _drawn(len(train), val_fraction, 0.0, seed)
        train, val = train[fit], train[held]
    if len(train) < 2:
        raise ValueError(f"{file.path}: column {split!r} must be train in at least 2 rows, got {len(train)}")
    return train, val, test


def _range(column: Tensor, path: str, name: str) -> tuple[float, float]:
    lower, upper = (float(bound) for bound in column.aminmax())
    if lower == upper:
        raise ValueError(f"{path}: input column {name!r} is constant ({lower:g}): leave it out of inputs")
    return lower, upper


def _count_copies(train: Points, test: Points) -> int:
    """Returns how many test rows are equal to a training row in inputs and targets."""
    import pandas
    from pandas.util import hash_pandas_object

    train_rows, test_rows = (
        hash_pandas_object(pandas.DataFrame(torch.cat([part.x, part.y.reshape(len(part), -1)], 1).numpy()), index=False)
        for part in (train, test)
    )
    return int(test_rows.isin(train_rows).sum())


def _digest(inputs: Any, targets: Tensor) -> str:
    """Returns a digest of rows as read, which does not depend on the kind of file.

    Converted columns would not do: the last bits of a function can differ between processors.
    """
    from pandas.util import hash_pandas_object

    rows = hash_pandas_object(inputs, index=False).to_numpy().tobytes()
    return hashlib.sha256(rows + targets.numpy().tobytes()).hexdigest()
