"""Guarantees of `TableFile`: tables are read as they occur; errors name file, column and row."""

import bz2
import datetime
import gzip

import pandas
import pytest

from datamodules import TableDataModule
from lit_triwave.cli import main
from tests.conftest import REPOSITORY
from tests.table_data import ROWS, everything, save, write


def test_integers_flags_and_numbers_stored_as_objects_are_numbers(table, tmp_path):
    table["flag"] = table["a"] > 0.5
    table["b"] = table["b"].astype(object)
    data = TableDataModule(save(table, tmp_path, "data.parquet"), ["count", "flag", "b"], "out")
    assert data.domain["count"] == (0.0, ROWS - 1.0)
    assert data.domain["flag"] == (0.0, 1.0)


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
        ("data.csv", "a;out\n1;9.50 €\n3;4,10 €\n5;6\n7;8\n".encode(), "'9.50 €' at line 2: write the numbers without"),
        ("data.csv", b"a;out\n1;$1,234.50\n3;4\n5;6\n7;8\n", "at line 2: write the numbers without signs and units"),
        (
            "data.csv",
            b"a;out\n" + b"".join(b"%d,5%%;1\n" % i for i in range(12)),
            "12 rows, such as '0,5%': write the numbers without signs and units",
        ),
        ("data.csv", b"a;out\n1;1.002.500\n3;4\n5;6\n7;8\n", ": set decimal to ',' and thousands to '.'$"),
        ("data.csv", "a,out\n1,−2.5\n3,4\n5,6\n7,8\n".encode(), ": write a - before negative numbers$"),
        ("data.csv", b"a,out\n1,(2.5)\n3,4\n5,6\n7,8\n", ": write a - before negative numbers$"),
        ("data.csv", b"Sales,\n,\na,out\n1,2\n3,4\n", ": remove the lines above the header$"),
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
        (["Jan 2020", "march 2021", "Sept. 2021", "2019 Dec"] * 5, "has dates: replace it by numbers"),
        (["Jan-20", "Feb-20", "21-May", "Jun '21"] * 5, "has dates: replace it by numbers"),
        (["2020Q1", "2020-q2", "Q3 2020", "2020 Q4"] * 5, "has dates: replace it by numbers"),
        (["Mai 2020", "März 2021", "2019 Okt", "Dez. 20"] * 5, "has dates: replace it by numbers"),
        (["01/2020", "12/2021", "2020M03", "2020-W53"] * 5, "has dates: replace it by numbers"),
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


def test_a_word_that_pandas_takes_for_missing_can_be_a_category(tmp_path):
    regions = ["NA", "EU", "AS", "", "NA", "EU"]
    path = write(tmp_path, "region,a,out\n" + "".join(f"{one},{i},{i}\n" for i, one in enumerate(regions)))
    with pytest.raises(ValueError, match=r"'region' at line 2 \(2 more .*; if 'NA' is no missing value, set keep_defa"):
        TableDataModule(path, ["region", "a"], "out")
    data = TableDataModule(path, ["region", "a"], "out", keep_default_na=False, missing="drop")
    assert data.columns.names == ["region=AS", "region=EU", "region=NA", "a"]
    assert data.remarks == [f"{path}: 1 of 6 rows dropped, as an input is missing"]  # the empty cell


@pytest.mark.parametrize(
    ("cells", "is_doubtful"),
    [("1.234 567 98.000", True), ("1.234 0.567 2", False), ("1.5 2.25 3", False), ("1.234 2.5 3", False)],
)
def test_numbers_in_the_form_of_german_thousands_are_named(tmp_path, cells, is_doubtful):
    rows = "".join(f"{i};{cell}\n" for i, cell in enumerate(cells.split() * 4))
    path = write(tmp_path, "a;out\n" + rows)
    remarks = TableDataModule(path, ["a"], "out").remarks
    assert (
        any("out: all numbers have the form of 1.234: if the point separates" in one for one in remarks) == is_doubtful
    )
    for options in ({"decimal": "."}, {"decimal": ",", "thousands": "."}):
        assert TableDataModule(path, ["a"], "out", **options).remarks == []
    with pytest.raises(ValueError, match="has no column 'oot'"):
        TableDataModule(path, ["a"], "oot")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a;out\n1,5;2\n2,5;3\n1,5;4\nlost;5\n", {"decimal": ","}, "'a' is not numeric: 'lost' at line 5: if"),
        ("a;out\n1,5;2\n2,5;3\n1,5;4\n2;1.234,5\n", {"decimal": ","}, "'1.234,5' at line 5: set decimal to ',' and"),
        ("a;out\n1,5;1.234\n2,5;3.456\n3,5;4.001\n4,5;5\n", {"decimal": ","}, "'1.234' .*: set thousands to '.'$"),
        ("a;out\n1.5;2\n1.5;3\n0.5;4\n0.5;5\n", {"decimal": ","}, "'a' .*: write it with the sign ',', which dec"),
        ("a;out\n1,500;2\n2;3\n3;4\nlost;5\n", {"thousands": ","}, "'a' is not numeric: 'lost' at line 5: if"),
    ],
)
def test_a_word_in_a_column_does_not_change_how_its_numbers_are_read(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        TableDataModule(write(tmp_path, text), ["a"], "out", **options)


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


def test_a_row_of_empty_fields_has_a_line_of_its_own(tmp_path):
    path = write(tmp_path, "a,out\n1,2\n,\n3,4\n5,6\n7,8x\n")
    with pytest.raises(ValueError, match="'8x' at line 6"):
        TableDataModule(path, ["a"], "out", missing="drop")
