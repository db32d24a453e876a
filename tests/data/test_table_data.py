"""Guarantees of `TableDataModule`: a file's numbers, split without overlap; errors name file, column and row."""

import bz2
import datetime
import gzip
import json
import runpy
import sys

import numpy as np
import pandas
import pytest
import torch

import datamodules.table
import datamodules.table_columns
import datamodules.table_files
from datamodules import TableDataModule
from lit_triwave.cli import main
from lit_triwave.errors import TriwaveError
from tests.conftest import REPOSITORY

ROWS = 40


@pytest.fixture
def table() -> pandas.DataFrame:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, ROWS, generator=generator, dtype=torch.float64).numpy()
    return pandas.DataFrame({"a": a, "note": "text", "b": 10 * b, "out": a * b, "count": range(ROWS)})


def save(table: pandas.DataFrame, folder, name: str = "data.csv") -> str:
    path = folder / name
    if name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return str(path)


def everything(data: TableDataModule) -> list[tuple[float, ...]]:
    splits = (data.train_set, data.val_set, data.test_set)
    return [(*x, y) for points in splits for x, y in zip(points.x.tolist(), points.y.tolist(), strict=True)]


@pytest.mark.parametrize("name", ["data.csv", "DATA.CSV", "data.csv.gz", "data.tsv", "data.tsv.gz", "data.parquet"])
def test_every_row_is_in_exactly_one_split_with_every_digit(table, tmp_path, name):
    data = TableDataModule(save(table, tmp_path, name), ["b", "a"], "out")
    assert sorted(everything(data)) == sorted(zip(table["b"], table["a"], table["out"], strict=True))
    assert [len(points) for points in (data.train_set, data.val_set, data.test_set)] == [32, 4, 4]
    assert data.domain == {
        "b": (float(table["b"].min()), float(table["b"].max())),
        "a": (float(table["a"].min()), float(table["a"].max())),
    }
    assert data.predict_set is data.test_set


def test_the_split_depends_on_the_seed_alone(table, tmp_path):
    path = save(table, tmp_path)
    first, again, other = (TableDataModule(path, ["a"], "out", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test_set.x, again.test_set.x)
    assert not torch.equal(first.test_set.x, other.test_set.x)


def test_each_split_keeps_the_order_of_the_file(table, tmp_path):
    data = TableDataModule(save(table, tmp_path), ["count"], "out")
    for points in (data.train_set, data.val_set, data.test_set):
        assert points.x[:, 0].tolist() == sorted(points.x[:, 0].tolist())


def test_a_split_of_share_zero_is_the_training_set(table, tmp_path):
    data = TableDataModule(save(table, tmp_path), ["a"], "out", val_fraction=0, test_fraction=0)
    assert len(data.train_set) == ROWS
    assert torch.equal(data.val_set.x, data.train_set.x)
    assert torch.equal(data.test_set.y, data.train_set.y)


def test_integers_flags_and_numbers_stored_as_objects_are_numbers(table, tmp_path):
    table["flag"] = table["a"] > 0.5
    table["b"] = table["b"].astype(object)
    data = TableDataModule(save(table, tmp_path, "data.parquet"), ["count", "flag", "b"], "out")
    assert data.domain["count"] == (0.0, ROWS - 1.0)
    assert data.domain["flag"] == (0.0, 1.0)


@pytest.mark.parametrize("with_target", [True, False])
def test_predictions_are_made_at_the_rows_of_another_file(table, tmp_path, with_target):
    asked = table.iloc[5:9].drop(columns=[] if with_target else ["out"])
    data = TableDataModule(
        save(table, tmp_path), ["a", "b"], "out", predict_path=save(asked, tmp_path, "asked.parquet")
    )
    (batch,) = data.predict_dataloader()
    assert batch.x.tolist() == asked[["a", "b"]].to_numpy().tolist()
    if with_target:
        assert batch.y.tolist() == asked["out"].tolist()
    else:
        assert batch.y.isnan().all()


@pytest.mark.parametrize(("name", "where"), [("asked.csv", "line 4 "), ("asked.parquet", "row 3 ")])
def test_predictions_are_never_extrapolated(table, tmp_path, name, where):
    asked = table.iloc[:5].copy()
    asked.loc[2, "b"] = 11.5
    with pytest.raises(ValueError, match=rf"{name}: 11.5 in column 'b' at {where}.*is outside the domain \["):
        TableDataModule(save(table, tmp_path), ["a", "b"], "out", predict_path=save(asked, tmp_path, name))
    data = TableDataModule(
        save(table, tmp_path), ["a", "b"], "out", predict_path=save(asked, tmp_path, name), outside="clamp"
    )
    assert float(data.predict_set.x[2, 1]) == data.domain["b"][1]


def test_predicting_at_no_rows_is_refused(table, tmp_path):
    asked = save(table.iloc[:0], tmp_path, "asked.csv")
    with pytest.raises(ValueError, match="no rows to predict"):
        TableDataModule(save(table, tmp_path), ["a"], "out", predict_path=asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": []}, "inputs must name at least one column, got none"),
        ({"inputs": ["a", "a"]}, "inputs, target and split must be different columns, got 'a'"),
        ({"inputs": ["a", "out"]}, "inputs, target and split must be different columns, got 'out'"),
        ({"split": "a"}, "inputs, target and split must be different columns, got 'a'"),
        ({"split": "b", "test_path": "b.csv"}, "split and test_path must not both be given"),
        ({"split": "note"}, "column 'note' must be train, val or test, got 'text' at line 2"),
        ({"categorical": ["b"]}, "categorical must be among the inputs, got 'b'"),
        (
            {"inputs": ["a", "cuont"]},
            r"no column 'cuont'; .*out, count; did you mean 'count'\?",
        ),
        ({"target": "zzz"}, "no column 'zzz'; its columns are a, note"),
        ({"target": "note"}, "column 'note' is not numeric: 'text' at line 2: targets must be numbers"),
        ({"compression": "foo"}, "compression must be one of infer, gzip, .*, got 'foo'"),
        ({"inputs": ["note"]}, "input column 'note=text' is constant"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"test_fraction": -0.1}, r"test_fraction must be in \[0, 1\), got -0.1"),
        ({"val_fraction": float("nan")}, "val_fraction must be"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "sum to less than 1"),
        ({"val_fraction": 0.49, "test_fraction": 0.5}, "leave 0 of 40 rows for training"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"path": "data.xlsx"}, "path must be a text file, such as .csv, or .parquet, got data.xlsx: save it"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line_that_names_it(table, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        TableDataModule(**{"path": save(table, tmp_path), "inputs": ["a"], "target": "out", **arguments})
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.csv: no such file"):
        TableDataModule(str(tmp_path / "absent.csv"), ["a"], "out")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileNotFoundError, match="folder.csv is not a file"):
        TableDataModule(str(tmp_path / "folder.csv"), ["a"], "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.parquet", b"not parquet", "data.parquet cannot be read as Parquet: "),
        ("data.csv.gz", b"not gzip", "data.csv.gz cannot be read as text with a header: "),
        ("data.csv", b"", "data.csv is empty: it must have a header and rows"),
        ("data.csv", b"a,out\n1,2\n3,4,5\n", ": line 3 has 3 fields, but the header has 2 names"),
        ("data.csv", b"a,out\n\xff\xfe,2\n", "cannot be read as text in UTF-8: set encoding to .* latin-1 or utf-16"),
        ("data.csv", "a,out\n1,2\n".encode("utf-16"), "cannot be read as text in UTF-8: set encoding to .* utf-16$"),
        ("data.csv", "a,out\n1,2\n".encode("utf-16-le"), "cannot be read as text in UTF-8: set encoding to utf-16-le"),
        (
            "data.csv",
            b"1,1\n2,4\n3,9\n4,16\n5,25\n",
            "'1' more than once: its first line has numbers, so put a line",
        ),
        (
            "data.csv",
            b"1,2\n2,4\n3,9\n4,16\n5,25\n",
            "no column 'a'; .*: its first line has numbers, so put a line",
        ),
        ("data.csv", b"a,out\n1,5,2,5\n2,5,4,5\n3,5,6,5\n", "header has names: where numbers have a decimal comma, "),
        ("data.csv", b"a,out\n1,\n2,\n3,\n4,\n", "target column 'out' has no value in any of its 4 rows"),
        ("data.csv", b"A,out\n1,2\n2,3\n3,4\n4,5\n", "did you mean 'A'"),
        ("data.csv", b"a,out,a\n1,2,3\n", "column names must differ, got 'a' more than once"),
        ("data.csv", b"a,out\n1,2,3\n4,5,6\n7,8,9\n1,3,4\n", "more fields than the header"),
        ("data.csv", b"a,out\n0,0,\n1,1,\n2,4,\n3,9,\n", "more fields than the header"),
        ("data.csv", b"a,b,out\n0,0,0,9\n1,1,1,9\n2,2,2,9\n3,3,3,9\n", "more fields than the header"),
        ("data.csv", b'"a","out"\n"1","0","0"\n"2","1","1"\n"3","2","2"\n', "more fields than the header"),
        ("data.csv", b"a::out\n0::0::9\n1::1::9\n2::4::9\n3::9::9\n", "set sep to"),
        (
            "data.csv",
            b"# so\n# it is\na,out\n1,2\n",
            """: if lines that begin with # are comments, set comment to "'#'"$""",
        ),
        ("data.csv", b"# so\n1,2\n3,4\n", """more fields than .*, set comment to "'#'"$"""),
        ("data.csv", b"By hand\nMonday\na,out\n1,2\n", ": remove the lines above the header$"),
        (
            "data.csv",
            b"a,out\n1,2\n2,4\n3,6\nA,8\n",
            "name it in na_values; if the column has categories, name it in cat",
        ),
        (
            "data.csv",
            b"a,out\n10%,2\n20%,4\n10%,6\n20%,8\n",
            "such as '10%': write the numbers without signs and units, or name the column in categorical",
        ),
        ("data.csv", b"a,out\n1,2\n3,4\n5,6\n", "must have at least 4 rows, got 3"),
        ("data.csv", b"a,out\n1,2\n3,4\n5,6\n7,inf\n", "non-finite value inf in column 'out' at line 5"),
        (
            "data.csv",
            b"a,out\n1,2\n,4\n5,6\n7,8\n",
            "missing value in column 'a' at line 3: correct it, or set missing to",
        ),
        ("data.csv", b"a,out\n,2\n,4\n5,6\n7,8\n", r"'a' at line 2 \(1 more row has one\): "),
        ("data.csv", b"a,out\n,2\n,4\n,5\n7,8\n9,7\n", r"'a' at line 2 \(2 more rows have one\): "),
        ("data.csv", b"a,out\n1,2\n3,4\n5,six\n7,8\n", "column 'out' is not numeric: 'six' at line 4"),
        ("data.csv", b"a,out\n1,2\n3,4\nfive,5\n7,8\n", "column 'a' is not numeric: 'five' at line 4"),
        ("data.csv", b"a;out\n1,5;2\n3,5;4\n1;5\n7;8\n", "'1,5' at line 2: set decimal or thousands to ','"),
        (
            "data.csv",
            b"a,out\n1,2\n-,4\n5,6\n7,8\n",
            "'-' at line 3: if it stands for a missing value, name it in na_values",
        ),
        (
            "data.csv",
            b'a,out\n"1,5",2\n"2,5",3\n"1,5",5\n"2,5",8\n',
            "2 different texts in 4 rows, such as '1,5': set decimal",
        ),
        (
            "data.csv",
            b"a,out\n" + b"".join(b"%d%%,1\n" % i for i in range(12)),
            "12 different texts in 12 rows, such as '0%': write the numbers without signs and units",
        ),
        ("data.csv", b"a^out\n1^2\n3^4\n5^6\n7^8\n", r"its columns are a\^out: set sep to '\^'$"),
        ("data.csv", b"a~out\n1~2\n3~4\n5~6\n7~8\n", """set sep to "'~'"$"""),
        ("data.csv", "a§out\n1§2\n3§4\n5§6\n7§8\n".encode(), "set sep to '§'$"),
        ("data.csv", b"a,out\n1,2\n3,4\n5,6\n~,8\n", """name it in na_values, as "'~'";"""),
        ("data.csv", b"a,out\n1,2\n3,4\n5,6\nNull,8\n", """name it in na_values, as "'Null'";"""),
        ("data.csv", b"a;out\n1;1.002,5\n3;4\n5;6\n7;8\n", ": set decimal to ',' and thousands to '.'$"),
        ("data.csv", b"a;out\n1;1 002,5\n3;4\n5;6\n7;8\n", ": set decimal to ',' and thousands to the sign between"),
        ("data.csv", "a;out\n1;1\u202f002\n3;4\n5;6\n7;8\n".encode(), r"between the digits, \$'\\u202f' in bash$"),
        ("data.csv", b'a,n,out\n1,"x\n\ny",2\n\n3,"x\ny",4,5\n', "line 6 has 4 fields, but the header has 3 names$"),
        ("data.csv", b'a,n,out\n1,"x\n\ny",2\n\n3,"x\ny,4\n5,6,7\n', "the quotation mark at line 6 is not closed$"),
        (
            "data.csv",
            b'a,n,out\n1,"two\n\nlines",2\n\n3,x,4\n5,x,6\n7,x,8x\n',
            "'8x' at line 8: write the numbers without",
        ),
        ("data.csv", b"day,out,a\n2024-01-30,2,x\n", "must have at least 4 rows"),
        ("data.csv", b"a,out\n1,2\n1,4\n1,6\n1,8\n", r"input column 'a' is constant \(1\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        TableDataModule(str(tmp_path / name), ["a"], "out")
    assert "\n" not in str(caught.value)


def test_dates_are_not_numbers(table, tmp_path):
    table["day"] = pandas.Timestamp("2024-01-01") + pandas.to_timedelta(table["count"], unit="D")
    for name in ("data.parquet", "data.csv"):
        with pytest.raises(ValueError, match="column 'day' has dates: replace it by numbers, such as the days since"):
            TableDataModule(save(table, tmp_path, name), ["day"], "out")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([datetime.time(hour, 30) for hour in range(20)], "has times of day: replace it by numbers"),
        ([f"{hour}:30" for hour in range(20)], "has times of day: replace it by numbers"),
        ([f"{hour % 12}:30:05 PM" for hour in range(20)], "has times of day: replace it by numbers"),
        ([datetime.timedelta(hours=hour) for hour in range(20)], "has durations: replace it by numbers"),
        ([f"{hour} days 01:30:00" for hour in range(20)], "has durations: replace it by numbers"),
        ([f"PT{hour}H30M" for hour in range(20)], "has durations: replace it by numbers"),
        ([f"April {day + 1:02d}, 2020" for day in range(20)], "has dates: replace it by numbers"),
        ([f"2020-{month % 12 + 1:02d}" for month in range(20)], "has dates: replace it by numbers"),
        (
            [[hour, 1] for hour in range(20)],
            r"'\[0 1\]' at row 1 .*: put each of its elements into a column of its own",
        ),
        ([{"a": hour} for hour in range(20)], "at row 1 .*: put each of its elements into a column of its own"),
        ([b"a", b"b"] * 10, "is not numeric: .* at row 1 .*: replace it by numbers"),
    ],
)
def test_columns_that_are_no_numbers_are_told_what_to_do(values, says, tmp_path):
    table = pandas.DataFrame({"a": values, "out": range(20)})
    with pytest.raises(ValueError, match=says):
        TableDataModule(save(table, tmp_path, "data.parquet"), ["a"], "out")


def test_ages_and_shifts_are_categories(tmp_path):
    table = pandas.DataFrame({"age": ["18-25", "26-40"] * 10, "shift": ["06:00", "14:00"] * 10, "out": range(20)})
    data = TableDataModule(save(table, tmp_path, "data.csv"), ["age", "shift"], "out", categorical=["shift"])
    assert data.columns.names == ["age=26-40", "shift=14:00"]


def test_names_of_two_levels_are_told_to_be_joined(tmp_path):
    table = pandas.DataFrame({("left", "a"): range(20), ("left", "out"): range(20)})
    table.columns = pandas.MultiIndex.from_tuples(table.columns)
    with pytest.raises(ValueError, match=r"no column 'a'; its columns are \('left', 'a'\), .*: join the levels"):
        TableDataModule(save(table, tmp_path, "data.parquet"), ["a"], "out")


@pytest.mark.parametrize("words", ["-", "'-'", ["-"], ["?", "-"], -1, [-1, "-"], "NA"])
def test_one_word_or_number_or_several_stand_for_a_missing_value(words, tmp_path):
    gone = words if words in (-1, "NA") else "-"
    path = write(tmp_path, f"a,out\n1.5,10\n2.5,1200\n{gone},7\n3.5,30\n4.5,40\n")
    data = TableDataModule(path, ["a"], "out", na_values=words, missing="drop", val_fraction=0, test_fraction=0)
    assert data.train_set.x.flatten().tolist() == [1.5, 2.5, 3.5, 4.5]


def test_four_rows_are_enough(tmp_path):
    (tmp_path / "data.csv").write_text("a,out\n1,2\n3,4\n5,6\n7,8\n")
    data = TableDataModule(str(tmp_path / "data.csv"), ["a"], "out")
    assert [len(points) for points in (data.train_set, data.val_set, data.test_set)] == [2, 1, 1]


def test_pandas_is_imported_only_where_there_is_a_table(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # any import of it now fails
    for module in (datamodules.table, datamodules.table_files, datamodules.table_columns):
        runpy.run_path(module.__file__)


def write(folder, text: str, name: str = "data.csv") -> str:
    (folder / name).write_text(text, newline="")
    return str(folder / name)


PAIRS = [(1.5, 10.0), (2.5, 1200.0), (3.5, 30.0), (4.5, 40.0)]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a,b c,out\n1.5,x,10\n2.5,x,1200\n3.5,x,30\n4.5,x,40\n", {}),
        (" a ;out \r\n1.5;10\r\n2.5; 1200\r\n3.5;30\r\n4.5;40\r\n", {}),
        (' a , "out" \n1.5,10\n2.5,1200\n3.5,30\n4.5,40\n', {}),
        ("a|out\n1.5|10\n2.5|1200\n3.5|30\n4.5|40\n", {}),
        ("a\tout\n1.5\t10\n2.5\t1200\n3.5\t30\n4.5\t40\n", {}),
        ("a    out\n1.5   10\n2.5 1200\n3.5   30\n4.5   40\n", {}),
        ("a;out\n1,5;10\n2,5;1.200\n3,5;30\n4,5;40\n", {"decimal": ",", "thousands": "."}),
        ("# made by hand\na,out\n1.5,10\n# so\n2.5,1200\n3.5,30\n4.5,40\n", {"comment": "#"}),
        ("# by hand\na,out\n1.5,10\n2.5,1200\n3.5,30\n4.5,40\n", {"comment": "'#'"}),
        ("a,out\n1.5,10\n2.5,1200\n3.5,30\n4.5,40\n,\n,\n", {}),
        ('"a","out"\n"1",1.5,10\n"2",2.5,1200\n"3",3.5,30\n"4",4.5,40\n', {}),
        ('"a" "out"\n"4" 1.5 10\n"5" 2.5 1200\n"7" 3.5 30\n"9" 4.5 40\n', {}),
        ("a::out\n1.5::10\n2.5::1200\n3.5::30\n4.5::40\n", {"sep": "::"}),
        ("a,out\n1.5,10\n2.5,1200\nlost,7\n3.5,30\n4.5,40\n", {"na_values": ["lost"], "missing": "drop"}),
    ],
)
def test_a_text_file_is_read_as_it_occurs(tmp_path, text, options):
    data = TableDataModule(write(tmp_path, text), ["a"], "out", **options)
    assert sorted(everything(data)) == PAIRS


def test_text_may_be_in_another_encoding_and_compressed(tmp_path):
    text = pandas.DataFrame(PAIRS, columns=["Größe", "out"]).to_csv(index=False, sep="\t")
    (tmp_path / "data.txt.bz2").write_bytes(bz2.compress(text.encode("utf-16")))
    data = TableDataModule(str(tmp_path / "data.txt.bz2"), ["Größe"], "out", encoding="utf-16")
    assert sorted(everything(data)) == PAIRS


def test_parquet_is_known_by_its_content_and_has_the_same_refusals_as_text(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    a, out = (pyarrow.array(column) for column in zip(*PAIRS, strict=True))

    def written(name: str, names: list[str], *columns) -> str:
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names), tmp_path / name)
        return str(tmp_path / name)

    from pyarrow import parquet  # noqa: F401  # makes it an attribute of the package

    assert sorted(everything(TableDataModule(written("part-0000", ["a", "out"], a, out), ["a"], "out"))) == PAIRS
    with pytest.raises(ValueError, match="column names must differ, got 'a' more than once"):
        TableDataModule(written("twice.parquet", ["a", "a", "out"], a, a, out), ["a"], "out")
    lists = pyarrow.array([[1.0]] * len(PAIRS))
    with pytest.raises(ValueError, match=r"column 'a' is not numeric: '\[1.\]' at row 1 \(counted from 1\): put each"):
        TableDataModule(written("lists.parquet", ["a", "out"], lists, out), ["a"], "out")


def test_test_rows_outside_the_domain_are_said(table, tmp_path):
    other = save(table.head(5).assign(a=[0.5, 0.5, 7.0, 0.5, -2.0]), tmp_path, "test.csv")
    data = TableDataModule(save(table, tmp_path), ["a"], "out", test_path=other)
    (remark,) = data.remarks
    assert "test.csv: 2 of 5 rows are outside the domain of" in remark


def test_several_targets_are_columns_in_their_own_units(table, tmp_path):
    data = TableDataModule(save(table, tmp_path), ["a", "b"], ["out", "count"])
    assert data.train_set.y.shape == (32, 2) and data.target_names == ["out", "count"]
    (low, high), counts = data.target_range
    assert (low, high) == (float(data.train_set.y[:, 0].min()), float(data.train_set.y[:, 0].max()))
    assert counts[1] > 30
    for targets, message in ((["out", "out"], "got 'out' more than once"), ([], "target must name at least one")):
        with pytest.raises(ValueError, match=message):
            TableDataModule(save(table, tmp_path), ["a"], targets)


def test_an_index_of_pandas_is_a_column_of_parquet(tmp_path):
    frame = pandas.DataFrame(PAIRS, columns=["a", "out"]).set_index("a")
    assert sorted(everything(TableDataModule(save(frame, tmp_path, "data.parquet"), ["a"], "out"))) == PAIRS


def test_names_that_yaml_reads_as_something_else_get_the_advice_to_quote_them(tmp_path, capsys):
    path = write(tmp_path, "2019,on,out\n1,2,3\n4,5,6\n7,8,9\n1,3,2\n")
    command = ["fit", "--config", str(REPOSITORY / "configs/table.yaml"), "--data.path", path]
    for given, name in (("[2019]", "2019"), ("[on]", "True")):
        assert main([*command, "--data.inputs", given, "--data.target", "out"]) == 2
        assert f"got {name}: put it in quotes" in capsys.readouterr().err
    assert main([*command, "--data.inputs", "['2019']", "--data.target", "[out, on]"]) == 2
    assert "target must be text, got True: put it in quotes" in capsys.readouterr().err
    assert main([*command, "--data.inputs", "out", "--data.target", "['on', '2019']"]) == 2
    assert "inputs must be a list, got out: write [out]" in capsys.readouterr().err
    for given, says in (
        ("[Unnamed: 0]", "inputs must be text, got {'Unnamed': 0}: put it in quotes"),
        ("[#1, out]", "inputs must be a list, got [#1, out]: put names with signs such as # in quotes"),
        ("[width [m], out]", "got [width [m], out]: put names with signs such as # in quotes"),
    ):
        assert main([*command, "--data.inputs", given, "--data.target", "out"]) == 2
        assert says in capsys.readouterr().err
    assert TableDataModule(path, ["2019", "on"], "out").domain["2019"] == (1.0, 7.0)


def test_a_column_may_be_called_like_the_home_folder(tmp_path, capsys):
    path = write(tmp_path, "~,out\n1,2\n3,4\n5,6\n7,8\n9,9\n")
    command = ["fit", "--config", str(REPOSITORY / "configs/table.yaml"), "--data.path", path, "--data.target", "none"]
    assert main([*command, "--data.inputs", "['~']"]) == 1
    assert "has no column 'none'; its columns are ~, out" in capsys.readouterr().err


def test_a_path_without_a_name_is_refused():
    with pytest.raises(FileNotFoundError, match="a table's path must name a file, got ''"):
        TableDataModule("", ["a"], "out")


def test_signs_need_not_be_ascii(tmp_path):
    text = "a§out\n1§1\u202f002·5\n2§4\n3§6\n\n4§8¶ last\n"
    data = TableDataModule(write(tmp_path, text), ["a"], "out", sep="§", thousands="\u202f", decimal="·", comment="¶")
    assert sorted(everything(data)) == [(1.0, 1002.5), (2.0, 4.0), (3.0, 6.0), (4.0, 8.0)]


def test_a_row_of_a_compressed_file_with_too_many_fields_has_no_line(tmp_path):
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(b'a,n,out\n1,"x\n\ny",2\n\n3,x,4,5\n'))
    with pytest.raises(ValueError, match=r"data.csv.gz: a row has 4 fields, but the header has 3 names$"):
        TableDataModule(str(path), ["a"], "out")


def test_categories_of_numbers_are_called_as_they_are_written(tmp_path):
    table = pandas.DataFrame({"a": [0.1, 0.5, 2.0, 1e22] * 5, "big": [10**17, 10**17 + 1] * 10, "out": range(20)})
    data = TableDataModule(save(table, tmp_path, "data.parquet"), ["a", "big"], "out", categorical=["a", "big"])
    assert data.columns.names == ["a=0.1", "a=0.5", "a=1e+22", "a=2", "big=100000000000000001"]


def test_without_test_rows_a_line_says_whose_errors_are_reported(table, tmp_path):
    says = "no rows are held out for the test: test errors are those of the training rows"
    path = save(table, tmp_path)
    assert says in TableDataModule(path, ["a"], "out", test_fraction=0).remarks
    assert says not in TableDataModule(path, ["a"], "out").remarks
    assert says not in TableDataModule(path, ["a"], "out", test_path=path).remarks


def sizes(name: str = "size") -> str:
    rows = [f"{word},{flag},{value},{value}" for value, (word, flag) in enumerate(WORDS * 5)]
    return "\n".join([f"{name},flag,n,out", *rows]) + "\n"


WORDS = [("small", True), ("large", False), ("medium", True), ("small", False)]


def test_words_and_booleans_are_categories(tmp_path):
    data = TableDataModule(write(tmp_path, sizes()), ["size", "flag"], "out", val_fraction=0, test_fraction=0)
    assert list(data.domain) == ["size=large", "size=medium", "size=small", "flag"]
    assert data.train_set.x[:3].tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 1]]
    ordinal = TableDataModule(
        write(tmp_path, sizes()), ["size", "n"], "out", ordinal=["size"], val_fraction=0, test_fraction=0
    )
    assert ordinal.train_set.x[:3].tolist() == [[2, 0], [0, 1], [1, 2]]


def test_codes_are_categories_where_asked_for(tmp_path):
    path = write(tmp_path, "code,out\n" + "".join(f"{10 * (i % 3)},{i}\n" for i in range(12)))
    assert list(TableDataModule(path, ["code"], "out").domain) == ["code"]
    assert list(TableDataModule(path, ["code"], "out", categorical=["code"]).domain) == ["code=0", "code=10", "code=20"]


def test_numbers_in_ordinal_are_in_their_order_but_those_of_a_checkpoint_keep_theirs(tmp_path):
    path = write(tmp_path, "a,out\n" + "".join(f"{a},{a}\n" for a in (1, 2, 10, 12, 11)))
    data = TableDataModule(path, ["a"], "out", ordinal=["a"], val_fraction=0, test_fraction=0)
    assert data.train_set.x[:, 0].tolist() == [0, 1, 2, 4, 3]
    state = data.state_dict()
    older = {"name": "a", "kind": "ordinal", "categories": ["1", "10", "11", "12", "2"]}
    data.load_state_dict({**state, "columns": [older]})
    assert data.train_set.x[:, 0].tolist() == data.val_set.x[:, 0].tolist() == [0, 4, 1, 3, 2]
    assert data.columns.state == [older]
    with pytest.raises(TriwaveError, match="its list of categories is 1, 2 there, and "):
        data.load_state_dict({**state, "columns": [{**older, "categories": ["1", "2"]}]})


@pytest.mark.parametrize("texts", [["1st", "2nd"], ["1.0.1", "1.0.2"], ["18-25", "26-40"]])
def test_names_with_digits_are_categories(tmp_path, texts):
    path = write(tmp_path, "a,out\n" + "".join(f"{text},{n}\n" for n, text in enumerate(2 * texts)))
    assert list(TableDataModule(path, ["a"], "out").domain) == [f"a={texts[1]}"]


@pytest.mark.parametrize(("row", "missing"), [(",c,5", "drop"), ("5,c,", "drop"), ("5,c,", "mean")])
def test_a_category_only_of_dropped_rows_is_no_input(tmp_path, row, missing):
    path = write(tmp_path, f"a,word,out\n1,a,1\n2,b,2\n{row}\n3,a,3\n4,b,4\n")
    assert list(TableDataModule(path, ["a", "word"], "out", missing=missing).domain) == ["a", "word=b"]


def test_a_row_of_empty_fields_has_a_line_of_its_own(tmp_path):
    path = write(tmp_path, "a,out\n1,2\n,\n3,4\n5,6\n7,8x\n")
    with pytest.raises(ValueError, match="'8x' at line 6"):
        TableDataModule(path, ["a"], "out", missing="drop")


def test_an_empty_cell_says_no_split(tmp_path):
    path = write(tmp_path, "a,out,part\n1,1,train\n2,2,\n3,3,test\n4,4,train\n")
    with pytest.raises(ValueError, match="must be train, val or test, got an empty cell at line 3"):
        TableDataModule(path, ["a"], "out", split="part")


def test_a_category_that_training_did_not_have_is_named(tmp_path):
    asked = write(tmp_path, "size,flag\nsmall,True\nhuge,True\n", "asked.csv")
    with pytest.raises(
        ValueError, match="asked.csv: unknown category 'huge' in column 'size' at line 3: .*has large, "
    ):
        TableDataModule(write(tmp_path, sizes()), ["size"], "out", predict_path=asked)


def test_texts_that_name_rows_are_no_categories(tmp_path):
    path = write(tmp_path, "who,out\n" + "".join(f"n{i},{i}\n" for i in range(150)))
    with pytest.raises(
        ValueError, match="column 'who' has 150 different texts in 150 rows, such as 'n0': leave it out"
    ):
        TableDataModule(path, ["who"], "out")


def test_missing_values_are_dropped_or_replaced_by_values_of_the_training_rows(tmp_path):
    rows = "".join(f"{i},{'' if i == 7 else 's' if i % 3 else 't'},{i},train\n" for i in range(1, 10))
    text = f"a,word,out,part\n,s,100,train\n{rows}40,s,5,test\n,t,6,test\n1,s,,train\n"
    path = write(tmp_path, text)
    common = {"inputs": ["a", "word"], "target": "out", "split": "part", "val_fraction": 0}
    dropped = TableDataModule(path, **common, missing="drop")
    assert len(dropped.train_set) == 8 and dropped.test_set.y.tolist() == [5.0]
    assert dropped.remarks == [
        f"{path}: 1 of 13 rows dropped, as a target is missing",
        f"{path}: 3 of 13 rows dropped, as an input is missing",
    ]
    for kind in ("median", "mean"):
        data = TableDataModule(path, **common, missing=kind)
        assert data.test_set.x.tolist() == [[40.0, 0.0], [5.0, 1.0]]  # of 1 to 9, without the test row's 40
        assert data.columns.state[0]["missing"] == 5.0 and data.columns.state[1]["missing"] == "s"
        assert len(data.train_set) == 10


def test_the_split_may_be_a_column_or_a_file(table, tmp_path):
    table["part"] = ["train"] * 20 + ["Test"] * 12 + ["validation"] * 8
    path = save(table, tmp_path)
    data = TableDataModule(path, ["a"], "out", split="part")
    for points, rows in ((data.train_set, slice(0, 20)), (data.test_set, slice(20, 32)), (data.val_set, slice(32, 40))):
        assert points.y.tolist() == table["out"][rows].tolist()
    other = save(table[5:9], tmp_path, "other.csv")
    data = TableDataModule(path, ["a"], "out", test_path=other)
    assert data.test_set.y.tolist() == table["out"][5:9].tolist()
    assert len(data.train_set) == 36 and len(data.val_set) == 4


def test_large_offsets_are_said(tmp_path):
    path = write(tmp_path, "stamp,a,out\n" + "".join(f"{1700000000 + i},{i},{i}\n" for i in range(9)))
    assert "id or a time stamp" in TableDataModule(path, ["stamp", "a"], "out").remarks[0]
    assert TableDataModule(path, ["a"], "out").remarks == []


def test_uneven_inputs_are_said(tmp_path):
    path = write(tmp_path, "income,log,few,out\n" + "".join(f"{3**i},{i},{i // 39},{i}\n" for i in range(40)))
    (remark,) = TableDataModule(path, ["income", "log", "few"], "out").remarks
    assert remark.startswith("uneven: income in [1, 4.05256e+18] with median 1.16226e+09: ")


def test_uneven_inputs_are_read_nearly_as_logarithms(tmp_path):
    rows = [(3.0**i, -(3.0**i), i) for i in range(40)]
    path = write(tmp_path, "income,debt,out\n" + "".join(f"{a!r},{b!r},{c}\n" for a, b, c in rows))
    options = {"val_fraction": 0.0, "test_fraction": 0.0, "uneven": "asinh"}
    data = TableDataModule(path, ["income", "debt"], "out", **options)
    away = np.array([a - 1 for a, _, _ in rows])
    expected = np.arcsinh(away / np.quantile(away[1:], 0.25))
    x = data.train_set.x.numpy()
    np.testing.assert_allclose(x[:, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(x[:, 1], -expected, rtol=1e-14)
    assert list(data.domain) == ["asinh income", "asinh debt"]
    assert data.remarks[:1] == ["uneven: income, debt: read as asinh((x - start) / scale), nearly a logarithm"]
    assert json.loads(json.dumps(data.state_dict()["columns"])) == data.columns.state
    # New rows are named in the table's own numbers.
    new = write(tmp_path, f"income,debt\n5,-5\n{3.0**40!r},-7\n", "new.csv")
    said = r"1.2157\d+e\+19 in column 'income' at line 3 is outside the domain \[1.0, 4.05\d+e\+18\]"
    with pytest.raises(ValueError, match=said):
        TableDataModule(path, ["income", "debt"], "out", predict_path=new, **options)
    clamped = TableDataModule(path, ["income", "debt"], "out", predict_path=new, outside="clamp", **options).predict_set
    assert clamped.x[1, 0] == data.train_set.x[-1, 0]


def test_a_prediction_with_another_replacement_of_missing_values_is_told_which(tmp_path, capsys):
    path = write(tmp_path, "a,out\n1,2\n2,4\n,6\n9,8\n3,3\n4,4\n")
    command = ["--config", "table.yaml", "--data.path", path, "--data.inputs", "[a]", "--data.target", "out"]
    command += [
        "--run.root",
        str(tmp_path / "runs"),
        "--run.id",
        "r",
        "--run.wandb",
        "disabled",
        "--model.members",
        "1",
    ]
    assert (
        main(["fit", *command, "--data.missing", "median", "--model.limit.epochs", "1", "--model.layers", "[2]"]) == 0
    )
    capsys.readouterr()
    assert main(["predict", *command, "--data.missing", "mean", "--model.layers", "[2]"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "column 'a' must be as in the checkpoint: its replacement of missing values is " in line
    assert line.endswith(" here: give the data and options of the training")
    assert "pretrained.ckpt" not in line


def test_a_table_that_has_changed_is_told_from_that_of_the_checkpoint(tmp_path, capsys):
    rows = [f"{a},{a % 3}" for a in range(12)]
    path = write(tmp_path, "\n".join(["a,out", *rows]) + "\n")
    command = ["--config", "table.yaml", "--data.path", path, "--data.inputs", "[a]", "--data.target", "out"]
    command += ["--run.root", str(tmp_path / "runs"), "--run.wandb", "disabled", "--model.layers", "[2]"]
    command += ["--model.members", "1", "--model.limit.epochs", "2"]
    assert main(["fit", *command, "--run.id", "r", "--trainer.max_epochs", "1"]) == 0
    last = ["--ckpt_path", str(tmp_path / "runs" / "table" / "r" / "checkpoints" / "last.ckpt")]

    write(tmp_path, "\n".join(["a;out", *(row.replace(",", ".0;") for row in rows)]) + "\n")  # the same numbers
    assert main(["fit", *command, *last]) == 0
    capsys.readouterr()
    changed = [row.replace(",1", ",1.001") for row in rows]  # neither the range nor the curvature
    write(tmp_path, "\n".join(["a,out", *changed]) + "\n")
    assert main(["fit", *command, *last]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: the training samples are not those of the checkpoint: files of the data have")
    assert main(["test", *command, *last]) == 0
    assert "the training samples are not those of the checkpoint" in capsys.readouterr().err
    write(tmp_path, "\n".join(["a,out", *rows, "5,9"]) + "\n")  # a row more, and the range of the target
    assert main(["fit", *command, *last]) == 1
    assert "last.ckpt is of other data: target_range is " in capsys.readouterr().err
