"""What `TableDataModule` promises: a file's numbers, split without overlap; errors name file, column and row."""

import runpy
import sys

import pandas
import pytest
import torch

import datamodules.table
from datamodules import TableDataModule

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
    with pytest.raises(ValueError, match=rf"{name}: 11.5 in column 'b' at {where}.* is outside the domain \["):
        TableDataModule(save(table, tmp_path), ["a", "b"], "out", predict_path=save(asked, tmp_path, name))


def test_predicting_at_no_rows_is_refused(table, tmp_path):
    asked = save(table.iloc[:0], tmp_path, "asked.csv")
    with pytest.raises(ValueError, match="no rows to predict"):
        TableDataModule(save(table, tmp_path), ["a"], "out", predict_path=asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": []}, "inputs must name at least one column, got none"),
        ({"inputs": ["a", "a"]}, "inputs and target must be different columns, got 'a'"),
        ({"inputs": ["a", "out"]}, "inputs and target must be different columns, got 'out'"),
        (
            {"inputs": ["a", "cuont"]},
            r"no column 'cuont'; .*out, count; did you mean 'count'\?",
        ),
        ({"target": "zzz"}, "no column 'zzz'; its columns are a, note"),
        ({"inputs": ["note"]}, "column 'note' is not numeric: 'text' at line 2 "),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"test_fraction": -0.1}, r"test_fraction must be in \[0, 1\), got -0.1"),
        ({"val_fraction": float("nan")}, "val_fraction must be"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "sum to less than 1"),
        ({"val_fraction": 0.49, "test_fraction": 0.5}, "leave 0 of 40 rows for training"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"path": "data.xlsx"}, "path must end in .csv, .*, got data.xlsx"),
        ({"path": "data"}, "path must end in .*, got data$"),
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
        ("data.parquet", b"not parquet", "data.parquet cannot be read as parquet: "),
        ("data.csv.gz", b"not gzip", "data.csv.gz cannot be read as csv.gz: "),
        ("data.csv", b"", "data.csv cannot be read as csv: "),
        ("data.csv", b"a,out\n1,2\n3,4,5\n", "cannot be read as csv: .*line 3"),
        ("data.csv", b"a,out\n\xff\xfe,2\n", "cannot be read as csv: "),
        ("data.csv", b"a,out\n1,2,3\n4,5,6\n7,8,9\n1,3,4\n", "more fields than the header"),
        ("data.csv", b"a,out\n1,2\n3,4\n5,6\n", "must have at least 4 rows, got 3"),
        ("data.csv", b"a,out\n1,2\n3,4\n5,6\n7,inf\n", "non-finite value inf in column 'out' at line 5 "),
        ("data.csv", b"a,out\n1,2\n,4\n5,6\n7,8\n", "non-finite value nan in column 'a' at line 3 "),
        ("data.csv", b"a,out\n1,2\n3,4\n5,six\n7,8\n", "column 'out' is not numeric: 'six' at line 4 "),
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
    with pytest.raises(ValueError, match="column 'day' is not numeric but datetime64"):
        TableDataModule(save(table, tmp_path, "data.parquet"), ["day"], "out")


def test_four_rows_are_enough(tmp_path):
    (tmp_path / "data.csv").write_text("a,out\n1,2\n3,4\n5,6\n7,8\n")
    data = TableDataModule(str(tmp_path / "data.csv"), ["a"], "out")
    assert [len(points) for points in (data.train_set, data.val_set, data.test_set)] == [2, 1, 1]


def test_pandas_is_needed_only_where_there_is_a_table(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # any import of it now fails
    runpy.run_path(datamodules.table.__file__)
    with pytest.raises(ValueError, match="reading data.csv needs pandas: pip install pandas pyarrow"):
        TableDataModule("data.csv", ["a"], "out")
