"""Which columns of a table are categories, and what stands for them and for missing values; cells: `table_files`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy
import torch
from torch import Tensor

from datamodules.regression import first_true
from datamodules.table_files import TableFile
from datamodules.table_notation import how_to_read, notation, time_advice
from lit_triwave.errors import has_control_characters, some

if TYPE_CHECKING:
    import pandas

Missing = Literal["drop", "median", "mean"]
Uneven = Literal["asinh"]
_MOST_CATEGORIES, _FEW_CATEGORIES = 100, 10
"""Most categories of a column: half the number of rows, but at most the first number and at least the second."""
_UNEVEN = 0.05
"""Half of an uneven input's values lie in this share of its range."""
_OFFSET = 100
"""An input further from zero than this multiple of its range may be an id or a time stamp."""


class InputColumns:
    """The inputs of a network from columns of a table, by values fitted to the training rows.

    Numbers are not changed, unless they are uneven and `uneven` asks for a transform. Categories are text, booleans,
    and the columns in `categorical` and `ordinal`. Each category becomes a column of 0 and 1 (with two categories, only
    the second does). Categories of an ordinal column become their number.

    Args:
        file: the file with the training rows.
        names: names of the columns.
        categorical: columns of numbers that are categories.
        ordinal: columns whose categories become their number.
        missing: replacement of a missing number, or `"drop"` for the row. A missing category becomes the most frequent.
        uneven: transform of uneven columns of numbers, which have half of their values within 5 % of their range at one
            end. `"asinh"` reads x as asinh((x − start) / scale), which is nearly a logarithm. Start is that end, and
            scale is the lower quartile of the distances from it.
        targets: columns that a used row must have if `missing` is given.

    Attributes:
        state: the fitted values as plain data: for each column its name and kind, the categories, the replacement of
            missing values, and start and scale.

    Raises:
        ValueError: a column cannot be an input; the message names it.
    """

    def __init__(
        self,
        file: TableFile,
        names: list[str],
        categorical: list[str],
        ordinal: list[str],
        missing: Missing | None,
        targets: Sequence[str] = (),
        uneven: Uneven | None = None,
    ) -> None:
        for option, columns in {"categorical": categorical, "ordinal": ordinal}.items():
            for name in columns:
                if name not in names:
                    raise ValueError(f"{option} must be among the inputs, got {name!r}")
        for name in categorical:
            if name in ordinal:
                raise ValueError(f"ordinal and categorical must name different columns, got {name!r} in both")
        self.missing, self.uneven = missing, uneven
        self.state: list[dict[str, Any]] = []
        needed = [*targets, *names] if missing == "drop" else [] if missing is None else targets
        used = numpy.ones(len(file), dtype=bool)
        for name in needed:
            used &= file.column(name).notna().to_numpy(dtype=bool)
        for name in names:
            column = file.column(name)
            if name in (*categorical, *ordinal) or _is_category(file, column):
                words = _words(column)[used].dropna()
                known = sorted({str(value) for value in words})
                if name in ordinal:
                    known = _in_order(known)
                is_named = name in (*categorical, *ordinal)
                advice = "" if is_named else notation(known)
                most = min(_MOST_CATEGORIES, max(_FEW_CATEGORIES, len(words) // 2))
                if len(known) <= most and advice:
                    advice += ", or name the column in categorical"
                elif len(known) > most and not advice:
                    advice = "" if is_named else how_to_read(known[0])
                    advice = advice or ": leave it out of inputs, or join rare ones"
                if advice:
                    raise ValueError(
                        f"{file.path}: column {name!r} has {len(known)} different texts in {len(words)} rows, such as "
                        f"{known[0][:40]!r}{advice}"
                    )
                kind = "ordinal" if name in ordinal or known == ["False", "True"] else "onehot"
                self.state.append({"name": name, "kind": kind, "categories": known})
            else:
                self.state.append({"name": name, "kind": "number"})
        categories = [word for column in self.state for word in column.get("categories", [])]
        for name in (*names, *targets, *categories):
            if has_control_characters(name):
                raise ValueError(
                    f"{file.path}: names of columns and categories must have no control characters, got {name!r}"
                )

    @property
    def names(self) -> list[str]:
        """Names of the network's inputs: the names of the columns, `name=category` for one-hot categories, and
        `asinh name` for uneven columns."""
        return [name for column in self.state for name in _encoded_names(column)]

    def raw(self, file: TableFile) -> pandas.DataFrame:
        """Returns the columns of a file as numbers (float64) and words, missing ones NaN.

        Raises:
            ValueError: a column of numbers has something else; the message says where.
        """
        import pandas

        columns: dict[str, Any] = {}
        for column in self.state:
            name, is_number = column["name"], column["kind"] == "number"
            columns[name] = file.numbers(name).numpy() if is_number else _words(file.column(name))
        found: pandas.DataFrame = pandas.DataFrame(columns)
        return found

    def present(self, file: TableFile, raw: pandas.DataFrame) -> Tensor:
        """Returns which rows can be used, (rows,) bool: all of them, unless rows with missing values are dropped.

        Raises:
            ValueError: values are missing, and the user has not said what to do.
        """
        gone = torch.from_numpy(raw.isna().to_numpy(copy=True))
        if self.missing is None and gone.any():
            row = int(gone.any(1).int().argmax())
            name = raw.columns[int(gone[row].int().argmax())]
            others = int(gone.any(1).sum()) - 1
            more = {0: "", 1: " (1 more row has one)"}.get(others, f" ({others} more rows have one)")
            is_number = any(one["name"] == name and one["kind"] == "number" for one in self.state)
            word = file.written(name, row + 1)[row] if file.is_text and not is_number else ""  # such as `NA`
            hint = f"; if {word!r} is no missing value, set keep_default_na to false" if word else ""
            raise ValueError(
                f"{file.path}: missing value in column {name!r} at {file.position(row)}{more}: correct it, or set "
                f"missing to drop, median or mean{hint}"
            )
        return ~gone.any(1) if self.missing == "drop" else torch.ones(len(raw), dtype=torch.bool)

    def check_categories(self, file: TableFile, raw: pandas.DataFrame, used: Tensor) -> None:
        """Raises ValueError if a row that is used has a category that is not known; the message says where."""
        for column in self.state:
            if column["kind"] == "number":
                continue
            words = raw[column["name"]]
            unknown = (words.notna() & ~words.isin(column["categories"])).to_numpy(copy=True)
            row = first_true(torch.from_numpy(unknown) & used)
            if row is not None:
                raise ValueError(
                    f"{file.path}: unknown category {words.iloc[row]!r} in column {column['name']!r} at "
                    f"{file.position(row)}: the training file has {some(column['categories'], 10)}"
                )

    def fit(self, raw: pandas.DataFrame) -> None:
        """Finds, from the training rows, the replacements of missing values, and start and scale of uneven columns."""
        if self.missing in ("median", "mean"):
            self._fit_missing(raw)
        if self.uneven is not None:
            self._fit_uneven(raw)

    def _fit_uneven(self, raw: pandas.DataFrame) -> None:
        for column in self.state:
            if column["kind"] != "number":
                continue
            values = raw[column["name"]].dropna().to_numpy(copy=True)
            if len(values) and (end := _crowded_end(values)) is not None:
                away = abs(values - end)
                column |= {"start": end, "scale": float(numpy.quantile(away[away > 0], 0.25))}

    def _fit_missing(self, raw: pandas.DataFrame) -> None:
        average = numpy.nanmedian if self.missing == "median" else numpy.nanmean
        for column in self.state:
            values = raw[column["name"]]
            if values.isna().all():
                raise ValueError(f"column {column['name']!r} has no value in the training rows: leave it out of inputs")
            is_number = column["kind"] == "number"
            column["missing"] = float(average(values.to_numpy())) if is_number else str(values.mode()[0])

    def encode(self, raw: pandas.DataFrame) -> Tensor:
        """Returns the network's inputs, (rows, inputs) float64. Missing values must have a replacement."""
        import pandas

        parts = []
        for column in self.state:
            values: Any = raw[column["name"]]
            if "missing" in column:
                values = values.fillna(column["missing"])
            if column["kind"] != "number":
                known = column["categories"]
                values = pandas.Index(known, dtype=object).get_indexer(values.astype(object))
                if column["kind"] == "onehot":
                    values = numpy.eye(len(known))[values, _dropped(known) :]
            if "scale" in column:
                values = numpy.arcsinh((values - column["start"]) / column["scale"])
            parts.append(torch.from_numpy(numpy.array(values, dtype="float64").reshape(len(raw), -1)))
        return torch.cat(parts, 1)

    def as_read(self, name: str, *values: float) -> tuple[str, list[float]]:
        """Reverses `encode` for one input: returns the column of the input, and its numbers for some input values."""
        for column in self.state:
            if "scale" in column and name in _encoded_names(column):
                numbers = [column["start"] + column["scale"] * math.sinh(value) for value in values]
                return column["name"], [float(f"{number:.12g}") for number in numbers]
        return name, list(values)

    def remarks(self, domain: dict[str, tuple[float, float]], x: Tensor) -> list[str]:
        """Returns lines about inputs that are far from zero compared with their range, and about uneven inputs.

        Args:
            domain: name ↦ (lower, upper) of each input.
            x: rows of inputs, (n, inputs).
        """
        far = [
            f"{name} in [{low:.15g}, {high:.15g}]"
            for name, (low, high) in domain.items()
            if min(abs(low), abs(high)) > _OFFSET * (high - low)
        ]
        said = [f"large offsets: {some(far)}: is it an id or a time stamp?"] if far else []
        changed = [column["name"] for column in self.state if "scale" in column]
        if changed:
            said.append(f"uneven: {some(changed)}: read as asinh((x - start) / scale), nearly a logarithm")
        uneven = [
            f"{name} in [{low:g}, {high:g}] with median {column.median():g}"
            for (name, (low, high)), column in zip(domain.items(), x.T, strict=True)
            if self.uneven is None and _crowded_end(column.numpy()) is not None
        ]
        if uneven:
            said.append(
                f"uneven: {some(uneven)}: the fit can be far off where it has few rows; set data.uneven to asinh, "
                "which reads such columns nearly as their logarithms"
            )
        return said


def _crowded_end(values: numpy.ndarray[Any, Any]) -> float | None:
    """Returns the end of the range of numbers, (n,), near which half of them lie; None if there is no such end."""
    low, middle, high = numpy.quantile(values, [0, 0.5, 1]).tolist()
    if min(middle - low, high - middle) >= _UNEVEN * (high - low):
        return None
    if len(numpy.unique(values)) <= _FEW_CATEGORIES:  # checked last, because it sorts
        return None
    return float(low if middle - low < high - middle else high)


def _is_category(file: TableFile, column: pandas.Series[Any]) -> bool:
    """Whether a column has words or booleans; dates and a mixture with numbers are refused when they are read."""
    import pandas

    kind = pandas.api.types
    if kind.is_bool_dtype(column) or isinstance(column.dtype, pandas.CategoricalDtype):
        return True
    if not (kind.is_object_dtype(column) or kind.is_string_dtype(column)) or time_advice(column):
        return False
    values = column.dropna()
    found = kind.infer_dtype(values)
    if found == "boolean":
        return True
    # Lists, bytes and other types of Parquet are neither.
    if found != "string" or not pandas.to_numeric(values, errors="coerce").isna().all():
        return False
    return bool(file.as_numbers(values).isna().all())


def _in_order(words: list[str]) -> list[str]:
    """Sorts words by their value if they are numbers; other words keep their order."""
    try:
        return sorted(words, key=float)
    except ValueError:
        return words


def _words(column: pandas.Series[Any]) -> pandas.Series[Any]:
    """Returns a column as text without blanks at the ends; missing values are NaN."""
    import pandas

    if pandas.api.types.is_numeric_dtype(column) and not pandas.api.types.is_bool_dtype(column):
        words = column.map(_number_word)
    else:
        words = column.astype(object).map(str).str.strip()
    found: pandas.Series[Any] = words.astype(object).where(column.notna(), float("nan"))
    return found


def _number_word(number: float) -> str:
    """Returns a number as the word of its category; 1 and 1.0 are one category."""
    return str(number if isinstance(number, int) else float(number)).removesuffix(".0")


def _encoded_names(column: dict[str, Any]) -> list[str]:
    if column["kind"] != "onehot":
        return [f"asinh {column['name']}" if "scale" in column else column["name"]]
    known = column["categories"]
    return [f"{column['name']}={word}" for word in known[_dropped(known) :]]


def _dropped(categories: list[str]) -> int:
    """Returns how many of the first categories have no column: of two, the second says all."""
    return 1 if len(categories) == 2 else 0
