"""Reads tables from text and Parquet files with pandas: finds the separator, and reads cells as numbers."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from datamodules.regression import first_true
from datamodules.table_notation import OR_CATEGORIES, has_german_thousands, how_to_read, in_quotes, time_advice
from lit_triwave.errors import did_you_mean, reason, some

if TYPE_CHECKING:
    import pandas

_SEPARATORS = (",", ";", "\t", "|", r"\s+")
_PARQUET = (".parquet", ".pq")
_PARQUET_MAGIC = b"PAR1"
"""The first bytes of every Parquet file."""
_NOT_TEXT = (".xls", ".xlsx", ".ods", ".feather", ".h5", ".pkl", ".json")
_MISSING_WORD = "if it stands for a missing value, name it in na_values"
_HEADER_OPTIONS = ("encoding", "comment", "compression")
_COMPRESSIONS = ("infer", "gzip", "bz2", "zip", "xz", "zstd", "tar")
_COMMENT_SIGNS = "#%!;/"
_SIGNS = ("decimal", "thousands", "comment")
"""Options that are one sign."""
_NO_SEPARATOR = "\x1f"  # occurs in no table
_AS_WRITTEN: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": []}
_FIRST = 1000
"""Number of rows in which the form of numbers is looked at."""
_NOT_NUMBERS = "if the column has categories, name it in categorical"


class TableFile:
    """One table in a file, with its columns by name.

    Args:
        path: path of a Parquet file, or of a text file with a header.
        wanted: columns that it should have. They help to find the separator of a text file.
        options: options of `pandas.read_csv`. With `sep` None, the separator is found among comma, semicolon, tab, |
            and blanks.

    Attributes:
        frame: the rows, with all columns of the file.

    Raises:
        ValueError: the file cannot be read; the message names it.
        FileNotFoundError: there is no such file.
    """

    frame: pandas.DataFrame
    _reading: dict[str, Any]

    def __init__(self, path: str, wanted: list[str], options: dict[str, Any]) -> None:
        self.path, self._options = path, options
        self._file = Path(path).expanduser()
        self._names: list[str] = []
        self._sep = ","
        compression = options.get("compression")
        if compression is not None and compression not in _COMPRESSIONS:
            raise ValueError(f"compression must be one of {', '.join(_COMPRESSIONS)}, got {compression!r}")
        for name in _SIGNS:
            if len(options.get(name) or "-") != 1:
                raise ValueError(f"{name} must be one sign, got {options[name]!r}")
        if not path:
            raise FileNotFoundError(f"a table's path must name a file, got {path!r}")
        if self._file.suffix.lower() in _NOT_TEXT:
            raise ValueError(f"path must be a text file, such as .csv, or .parquet, got {path}: save it as one of them")
        if not self._file.is_file():
            raise FileNotFoundError(f"{path} is not a file" if self._file.exists() else f"{path}: no such file")
        encoding = options.get("encoding") or "UTF-8"
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"encoding must be such as utf-8, utf-16 or latin-1, got {encoding!r}") from None
        with self._file.open("rb") as content:
            start = content.read(1000)
        self.is_text = self._file.suffix.lower() not in _PARQUET and not start.startswith(_PARQUET_MAGIC)
        from pandas.errors import EmptyDataError

        try:
            header = self._read_text(wanted) if self.is_text else self._read_parquet()
        except UnicodeError:
            is_utf16 = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            if b"\0" in start and not is_utf16:
                raise ValueError(f"{path} must be a table, got a binary file: save it as .csv or .parquet") from None
            others = "utf-16" if is_utf16 else "latin-1 or utf-16"
            raise ValueError(
                f"{path} cannot be read as text in {encoding}: set encoding to the file's, such as {others}"
            ) from None
        except EmptyDataError:
            raise ValueError(f"{path} is empty: it must have a header and rows") from None
        except Exception as error:  # pandas, pyarrow and gzip raise many kinds, some of several lines
            if self.is_text:
                self._refuse_row(str(error), wanted)
            kind = "text with a header" if self.is_text else "Parquet"
            raise ValueError(f"{path} cannot be read as {kind}: {reason(error)}") from None
        if any("\0" in name for name in header):
            raise ValueError(f"{path} cannot be read as text in UTF-8: set encoding to utf-16-le or utf-16-be")
        twice = [repr(name) for name in dict.fromkeys(header) if name and header.count(name) > 1]
        if twice:
            raise ValueError(
                f"{path}: column names must differ, got {some(twice)} more than once{self._numbers_hint(header)}"
            )
        if self.is_text and self._is_shifted():
            hint = (
                self._header_hint(wanted)
                or self._comma_hint()
                or ": name each column, or remove the separators at the ends of the rows"
            )
            raise ValueError(f"{path}: rows have more fields than the header has names{hint}")
        self.frame = self.frame.reset_index(drop=True)
        self.frame.columns = [str(name).strip() for name in self.frame.columns]  # type: ignore[assignment]

    def _read_text(self, wanted: list[str]) -> list[str]:
        """Reads the rows; returns the names in the header."""
        import pandas

        given = self._options.get("sep")
        candidates = _SEPARATORS if given is None else (str(given).replace("\\t", "\t"),)
        headers = {sep: [str(name).strip() for name in self._first_lines(sep, 1).iloc[0]] for sep in candidates}
        # Names may contain blanks, so blanks are the separator only if this gives all wanted names.
        self._sep = max(candidates, key=lambda s: (len({*wanted} & {*headers[s]}), len(headers[s]) * (s != r"\s+")))
        options = {name: value for name, value in self._options.items() if name != "sep" and value is not None}
        self._reading = options
        if self._engine(self._sep) == "c":
            options["low_memory"] = False
            # Numbers keep their last digit, so that a domain is the same in every file. pandas 3.1 does so by default.
            if tuple(int(part) for part in pandas.__version__.split(".")[:2]) < (3, 1):
                options["float_precision"] = "round_trip"
        self._names = headers[self._sep]
        self.frame = self._read(self._sep, **options)
        if len(self.frame) and self.frame.iloc[-1].isna().all():  # spreadsheets write empty rows at the end
            words = self._read(self._sep, **options | _AS_WRITTEN)
            filled = (words.fillna("") != "").any(axis=1).to_numpy().nonzero()[0]
            self.frame = self._read(self._sep, **options, nrows=int(filled[-1]) + 1 if len(filled) else 0)
        return self._names

    def _read(self, sep: str, **options: Any) -> pandas.DataFrame:
        import pandas

        found: pandas.DataFrame = pandas.read_csv(
            self._file, sep=sep, engine=self._engine(sep), skipinitialspace=True, **options
        )
        return found

    def _first_lines(self, sep: str, count: int, **options: Any) -> pandas.DataFrame:
        """Returns the header and the lines after it as text."""
        given = {name: self._options[name] for name in _HEADER_OPTIONS if self._options.get(name) is not None}
        return self._read(sep, header=None, nrows=count, **_AS_WRITTEN, **given, **options)

    def _is_shifted(self) -> bool:
        """Whether pandas took the first fields of the rows as an index, because they have more fields than names."""
        from pandas.errors import ParserError

        try:
            self._first_lines(self._sep, 2)
        except ParserError:
            # R's write.table writes the row numbers in quotes and without a name in the header.
            line = str(self._first_lines(_NO_SEPARATOR, 2, quoting=csv.QUOTE_NONE).iloc[1, 0])
            every = 2 * (len(self._names) + 1)  # all fields in quotes: these are no names of rows
            return self.frame.index.nlevels > 1 or not (re.match(r'"\d+"', line) and line.count('"') < every)
        return False

    def _comma_hint(self) -> str:
        """Returns what to do if every field was split in two, as the end of an error; else ""."""
        if self._sep == "," and self.frame.index.nlevels == len(self._names):
            return ": where numbers have a decimal comma, another sign must separate them, or quotes be around them"
        return ""

    @staticmethod
    def _numbers_hint(header: list[str]) -> str:
        """Returns what to do if the first line has numbers instead of names, as the end of an error; else ""."""
        try:
            _ = [float(name) for name in header]
        except ValueError:
            return ""
        return ": its first line has numbers, so put a line with the names of the columns above it"

    def _header_hint(self, wanted: list[str]) -> str:
        """Returns what to do if the first line is not the header, as the end of an error; else ""."""
        sign = self._names[0][:1] if self._names else ""
        if sign and sign in _COMMENT_SIGNS and not self._options.get("comment"):
            return f""": if lines that begin with {sign} are comments, set comment to "'{sign}'\""""
        return ": remove the lines above the header" if self._names and not {*wanted} & {*self._names} else ""

    def _refuse_row(self, message: str, wanted: list[str]) -> None:
        """Raises ValueError for a row that pandas could not read, with its line; pandas counts rows, not lines."""
        fields = re.search(r"Expected (\d+) fields in line \d+, saw (\d+)", message)
        if not fields and "inside string" not in message and "end of data" not in message:
            return
        place = "a row"
        try:
            for line, record in self._records():
                if not fields:
                    place = f"line {line}"
                elif len(record) > int(fields[1]) and len(record) == int(fields[2]):
                    place = f"line {line}"
                    break
        except (UnicodeError, csv.Error):  # as in a compressed file
            pass
        if not fields:
            raise ValueError(f"{self.path}: the quotation mark at {place} is not closed")
        hint = self._header_hint(wanted)
        raise ValueError(f"{self.path}: {place} has {fields[2]} fields, but the header has {fields[1]} names{hint}")

    def _engine(self, sep: str) -> Any:
        """Returns the parser of pandas: the fast one takes no patterns, and only signs of ASCII."""
        signs = "".join(str(self._options.get(name) or "") for name in _SIGNS) + sep
        return "c" if signs.isascii() and (len(sep) == 1 or sep == r"\s+") else "python"

    def _read_parquet(self) -> list[str]:
        """Reads the rows; returns the names of the columns."""
        from pyarrow import parquet

        # Without the metadata of pandas, which would make an index of some columns.
        self.frame = parquet.ParquetFile(self._file).read().to_pandas(ignore_metadata=True)
        return [str(name).strip() for name in self.frame.columns]

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> pandas.Series[Any]:
        """Returns a column as it was read.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.frame.columns:
            known = list(self.frame.columns)
            hint = did_you_mean(name, known) or self._numbers_hint(known)
            if len(known) == 1 and name in known[0]:
                sign = re.search(rf"{re.escape(name)}\s*([^\w\s]+)|([^\w\s]+)\s*{re.escape(name)}", known[0])
                hint = f": set sep to {in_quotes(sign[1] or sign[2]) if sign else 'the sign between them'}"
            if all(re.fullmatch(r"\(.+, .+\)", other) for other in known):  # how pandas writes names of two levels
                hint = ": join the levels of its names before it is saved, as in df.columns = df.columns.map('_'.join)"
            has_title = len(known) > 1 and all(other.startswith("Unnamed: ") for other in known[1:])
            if self.is_text and not hint and (has_title or known[0][:1] in _COMMENT_SIGNS):
                hint = self._header_hint([])
            raise ValueError(f"{self.path} has no column {name!r}; its columns are {some(known, 20)}{hint}")
        return self.frame[name]

    def written(self, name: str, rows: int) -> list[str]:
        """Returns the first cells of a column of a text file as they are written, without blanks at the ends."""
        words = self._read(self._sep, **self._reading | _AS_WRITTEN, nrows=rows)
        words.columns = [str(key).strip() for key in words.columns]  # type: ignore[assignment]
        return [str(word).strip() for word in words[name].fillna("")]

    def remarks(self, names: list[str]) -> list[str]:
        """Returns a line about columns whose numbers may have been meant otherwise."""
        if not self.is_text or self._sep != ";" or self._options.get("thousands") or self._options.get("decimal"):
            return []
        import pandas

        kind = pandas.api.types
        floats = [name for name in names if name in self.frame.columns and kind.is_float_dtype(self.frame[name])]
        doubtful = [name for name in floats if has_german_thousands(self.written(name, _FIRST))]
        if not doubtful:
            return []
        return [
            f"{self.path}: {some(doubtful)}: all numbers have the form of 1.234: if the point separates thousands, set "
            "decimal to ',' and thousands to '.'"
        ]

    def numbers(self, name: str, is_target: bool = False) -> Tensor:
        """Returns a column as numbers, NaN where there is none, (rows,) float64.

        Args:
            name: name of the column.
            is_target: whether it is a target, and so cannot be a category.

        Raises:
            ValueError: it is no column of numbers; the message says what is wrong and where.
        """
        import pandas

        column, kind = self.column(name), pandas.api.types
        times = time_advice(column)
        if times:
            advice = times.removesuffix(OR_CATEGORIES) if is_target else times
            raise ValueError(f"{self.path}: column {name!r} has {advice}")
        if (
            kind.is_object_dtype(column)
            or kind.is_string_dtype(column)
            or isinstance(column.dtype, pandas.CategoricalDtype)
        ):
            numbers = self.as_numbers(column)
            row = first_true(torch.from_numpy((numbers.isna() & column.notna()).to_numpy(dtype=bool, copy=True)))
            if row is not None:
                value = str(column.iloc[row])
                mostly_numbers = int(numbers.notna().sum()) > len(numbers) // 2
                hint = ": replace it by numbers"
                if isinstance(column.iloc[row], (list, tuple, dict, numpy.ndarray)):
                    hint = ": put each of its elements into a column of its own"
                elif isinstance(column.iloc[row], str):
                    word = in_quotes(value.strip())
                    quoted = f", as {word}" if word.startswith('"') else ""
                    parts = [_MISSING_WORD + quoted] if mostly_numbers else []
                    parts += ["targets must be numbers"] if is_target else [_NOT_NUMBERS]
                    hint = self._points_hint(value) or how_to_read(value) or f": {'; '.join(parts)}"
                raise ValueError(
                    f"{self.path}: column {name!r} is not numeric: {value[:40]!r} at {self.position(row)}{hint}"
                )
            column = numbers
        elif not kind.is_numeric_dtype(column) or kind.is_complex_dtype(column):
            raise ValueError(f"{self.path}: column {name!r} is not numeric but {column.dtype}: replace it by numbers")
        values = torch.from_numpy(column.to_numpy(dtype="float64", na_value=float("nan"), copy=True))
        row = first_true(values.isinf())
        if row is not None:
            raise ValueError(
                f"{self.path}: non-finite value {values[row]:g} in column {name!r} at {self.position(row)}"
            )
        return values

    def as_numbers(self, column: pandas.Series[Any]) -> pandas.Series[Any]:
        """Returns the cells of a column of text as numbers, NaN where one is none. Pandas itself leaves all cells of a
        column with one word in it as they are written."""
        import pandas

        decimal, thousands = self._options.get("decimal") or ".", self._options.get("thousands")
        words = column.astype(object)
        if self.is_text and (decimal != "." or thousands):
            words = words.map(lambda word: _with_point(word, decimal, thousands) if isinstance(word, str) else word)
        numbers: pandas.Series[Any] = pandas.to_numeric(words, errors="coerce")
        return numbers

    def _points_hint(self, text: str) -> str:
        """Returns what to do about a number with points if the decimal sign is another, as the end of an error."""
        decimal = self._options.get("decimal") or "."
        if decimal == "." or not re.fullmatch(r"\s*[-+]?\d+(\.\d+)+\s*", text):
            return ""
        if re.fullmatch(r"\s*[-+]?\d{1,3}(\.\d{3})+\s*", text):
            return ": set thousands to '.'"
        return f": write it with the sign {decimal!r}, which decimal is"

    def position(self, row: int) -> str:
        """Describes where a user finds a row (from 0): by its line where lines can be counted."""
        if self.is_text and self._lines is not None and row < len(self._lines):
            return f"line {self._lines[row]}"
        return f"row {row + 1} (counted from 1)"

    @cached_property
    def _lines(self) -> list[int] | None:
        """Lines on which the rows begin, from 1; None for a compressed file."""
        try:
            return [line for line, _ in self._records()][1:]
        except (UnicodeError, csv.Error):
            return None

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the line on which each row begins, from 1, and its fields; the header first."""
        encoding, comment = self._options.get("encoding") or "utf-8", self._options.get("comment")
        separator, before = self._sep if len(self._sep) == 1 else " ", 0
        with self._file.open(encoding=encoding, newline="") as text:
            lines = csv.reader(text, delimiter=separator, skipinitialspace=True)
            for record in lines:
                begin, before = before + 1, lines.line_num
                # Like pandas: a row of empty fields is a row, a line of blanks is none.
                if (len(record) > 1 or "".join(record).strip()) and not (comment and record[0].startswith(comment)):
                    yield begin, record


def _with_point(word: str, decimal: str, thousands: str | None) -> str:
    """Returns a number with a decimal point and without groups; a point of another meaning makes it no number."""
    word = word.replace(thousands, "") if thousands else word
    return word if decimal == "." else word.replace(".", "?").replace(decimal, ".")
