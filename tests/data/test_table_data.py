"""Guarantees of `TableDataModule`: rows are split without overlap; new rows are predicted; changed tables are told."""

import runpy
import sys

import pandas
import pytest
import torch

import datamodules.table
import datamodules.table_columns
import datamodules.table_files
from datamodules import TableDataModule
from lit_triwave.cli import main
from tests.table_data import ROWS, everything, save, write


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
        (
            {"val_fraction": 0.49, "test_fraction": 0.5},
            "must leave at least 2 rows for training, got 0.49 and 0.5, which leave 0 of 40",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"path": "data.xlsx"}, "path must be a text file, such as .csv, or .parquet, got data.xlsx: save it"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line_that_names_it(table, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        TableDataModule(**{"path": save(table, tmp_path), "inputs": ["a"], "target": "out", **arguments})
    assert "\n" not in str(caught.value)


def test_four_rows_are_enough(tmp_path):
    (tmp_path / "data.csv").write_text("a,out\n1,2\n3,4\n5,6\n7,8\n")
    data = TableDataModule(str(tmp_path / "data.csv"), ["a"], "out")
    assert [len(points) for points in (data.train_set, data.val_set, data.test_set)] == [2, 1, 1]


def test_pandas_is_imported_only_where_there_is_a_table(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # any import of it now fails
    for module in (datamodules.table, datamodules.table_files, datamodules.table_columns):
        runpy.run_path(module.__file__)


def test_test_rows_outside_the_domain_are_said(table, tmp_path):
    other = save(table.head(5).assign(a=[0.5, 0.5, 7.0, 0.5, -2.0]), tmp_path, "test.csv")
    data = TableDataModule(save(table, tmp_path), ["a"], "out", test_path=other)
    (remark,) = data.remarks
    assert "test.csv: 2 of 5 rows are outside the domain of" in remark


def test_test_rows_that_are_copies_of_training_rows_are_counted(table, tmp_path):
    says = "test rows are equal to training rows in all inputs and targets: if they are copies, remove them"
    path = save(table, tmp_path)
    other = save(table.head(5).assign(a=[0.5, 0.5, *table["a"][2:5]]), tmp_path, "test.csv")
    found = [TableDataModule(path, ["a", "b"], "out", test_path=one, val_fraction=0).remarks for one in (path, other)]
    assert [[line[:19] for line in lines if says in line] for lines in found] == [
        [f"40 of 40 {says[:10]}"],
        [f"3 of 5 {says[:12]}"],
    ]
    assert TableDataModule(path, ["a", "b"], "out").remarks == []
    twice = save(pandas.concat([table, table]), tmp_path, "twice.csv")
    assert any(says in line for line in TableDataModule(twice, ["a", "b"], "out").remarks)


def test_several_targets_are_columns_in_their_own_units(table, tmp_path):
    data = TableDataModule(save(table, tmp_path), ["a", "b"], ["out", "count"])
    assert data.train_set.y.shape == (32, 2) and data.target_names == ["out", "count"]
    (low, high), counts = data.target_range
    assert (low, high) == (float(data.train_set.y[:, 0].min()), float(data.train_set.y[:, 0].max()))
    assert counts[1] > 30
    for targets, message in ((["out", "out"], "got 'out' more than once"), ([], "target must name at least one")):
        with pytest.raises(ValueError, match=message):
            TableDataModule(save(table, tmp_path), ["a"], targets)


def test_without_test_rows_a_line_says_whose_errors_are_reported(table, tmp_path):
    says = "no rows are held out for the test: test errors are those of the training rows"
    path = save(table, tmp_path)
    assert says in TableDataModule(path, ["a"], "out", test_fraction=0).remarks
    assert says not in TableDataModule(path, ["a"], "out").remarks
    assert says not in TableDataModule(path, ["a"], "out", test_path=path).remarks


def test_an_empty_cell_says_no_split(tmp_path):
    path = write(tmp_path, "a,out,part\n1,1,train\n2,2,\n3,3,test\n4,4,train\n")
    with pytest.raises(ValueError, match="must be train, val or test, got an empty cell at line 3"):
        TableDataModule(path, ["a"], "out", split="part")


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


def test_a_run_of_a_version_without_an_option_resumes_with_its_default(tmp_path, capsys):
    path = write(tmp_path, "\n".join(["a,out", *(f"{a},{a % 3}" for a in range(12))]) + "\n")
    command = ["fit", "--config", "table.yaml", "--data.path", path, "--data.inputs", "[a]", "--data.target", "out"]
    command += ["--run.root", str(tmp_path / "runs"), "--run.wandb", "disabled", "--model.layers", "[2]"]
    command += ["--model.members", "1", "--model.limit.epochs", "2"]
    assert main([*command, "--run.id", "r", "--trainer.max_epochs", "1"]) == 0
    last = tmp_path / "runs" / "table" / "r" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["run"]["data"]["init_args"]["keep_default_na"]
    torch.save(content, last)
    command += ["--ckpt_path", str(last)]
    assert main([*command, "--data.keep_default_na", "false"]) == 1
    assert "of another config: data.keep_default_na is True there and False here" in capsys.readouterr().err
    assert main(command) == 0
    assert main([*command, "--model.limit.epochs", "3"]) == 1  # the stage is over
    assert "of another config: model.limit.epochs is 2 there and 3 here" in capsys.readouterr().err
