"""Guarantees of `InputColumns`: categories, missing values, and what is said of columns."""

import json

import numpy as np
import pandas
import pytest

from datamodules import TableDataModule
from lit_triwave.cli import main
from lit_triwave.errors import TriwaveError
from tests.table_data import save, write


def test_ages_and_shifts_are_categories(tmp_path):
    table = pandas.DataFrame({"age": ["18-25", "26-40"] * 10, "shift": ["06:00", "14:00"] * 10, "out": range(20)})
    data = TableDataModule(save(table, tmp_path, "data.csv"), ["age", "shift"], "out", categorical=["shift"])
    assert data.columns.names == ["age=26-40", "shift=14:00"]


def test_categories_of_numbers_are_called_as_they_are_written(tmp_path):
    table = pandas.DataFrame({"a": [0.1, 0.5, 2.0, 1e22] * 5, "big": [10**17, 10**17 + 1] * 10, "out": range(20)})
    data = TableDataModule(save(table, tmp_path, "data.parquet"), ["a", "big"], "out", categorical=["a", "big"])
    assert data.columns.names == ["a=0.1", "a=0.5", "a=1e+22", "a=2", "big=100000000000000001"]


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


@pytest.mark.parametrize("inputs", [["\x1b[31mred"], ["word"]])
def test_names_that_a_terminal_would_execute_are_refused(tmp_path, inputs):
    path = write(tmp_path, "\x1b[31mred,word,first\tline,out\n" + "1,a\x9bb,3,4\n2,c,5,6\n" * 4)
    with pytest.raises(
        ValueError, match=r"names of columns and categories must have no control characters, got '.*\\x"
    ):
        TableDataModule(path, inputs, "out")
    assert TableDataModule(path, ["first\tline"], "out").columns.names == ["first\tline"]
