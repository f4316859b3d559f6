"""Tables from CSV files: values, the times of rows and of those that would follow, and faults."""

import numpy as np
import pytest
from support import read_table


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text, *columns):
        (tmp_path / "x.csv").write_bytes(text.encode())
        return read_table("x.csv", columns)

    return read


def column(labels, name="date"):
    """A table of these labels and a column x."""
    return f"{name},x\n" + "".join(f"{label},{n}\n" for n, label in enumerate(labels))


def test_columns_in_the_order_that_was_asked_for(read):
    table = read('\ufeffa, b ,"c,d"\r\n1,2.5,x\r\n\r\n-3,"4e1",y', "b", "a")
    assert table.values.tolist() == [[2.5, 1], [40, -3]] and table.labels is None
    assert str(table) == "2 rows"


@pytest.mark.parametrize(
    "labels, then",
    [
        (["2001", "2002", "2003"], ["2004", "2005"]),
        (["0.1", "0.2", "0.3"], ["0.4", "0.5"]),
        (["-20", "-10", "0"], ["10", "20"]),
        (["2024-11", "2024-12"], ["2025-01", "2025-02"]),
        (["2024-02-28", "2024-02-29"], ["2024-03-01", "2024-03-02"]),
        (["2024-01-01", "2024-02-01", "2024-03-01"], ["2024-04-01", "2024-05-01"]),
        (["2023-12-31", "2024-01-31", "2024-02-29"], ["2024-03-31", "2024-04-30"]),
        (["2023-07-15", "2024-01-15", "2024-07-15"], ["2025-01-15", "2025-07-15"]),
        (["2024-01-05", "2024-01-12", "2024-01-19"], ["2024-01-26", "2024-02-02"]),
        (["2024-01-31 22:00", "2024-01-31 23:00"], ["2024-02-01 00:00", "2024-02-01 01:00"]),
        (["2024-01-31T23:59:59.5", "2024-02-01T00:00:00.0"], ["2024-02-01T00:00:00.5"] * 2),
        (["3", "5", "6"], None),
        (["2024-01-05", "2024-01-08", "2024-01-09"], ["2024-01-10", "2024-01-11"]),
        (["2024-01-05", "2024-01-07", "2024-01-08"], None),
        (["2024-01-05"], None),
        (["20240130", "20240131"], ["20240201", "20240202"]),
        (["202411", "202412"], ["202501", "202502"]),
    ],
)
def test_times_go_on(read, labels, then):
    table = read(column(labels, "t"), "x")
    assert table.time == "t" and table.labels == labels
    assert str(table) == f"{len(labels)} rows from {labels[0]} to {labels[-1]}"
    assert table.labels_from(0, len(labels)) == labels
    if then is None:
        assert table.labels_from(1, len(labels)) is None
        return
    assert table.labels_from(len(labels), 1) == then[:1]
    whole = table.times_from(0, len(labels) + 2)
    np.testing.assert_array_equal(whole[: len(labels)], table.times)
    if len(set(then)) > 1:
        assert table.labels_from(len(labels), 2) == then
        assert table.labels_from(len(labels) - 1, 3)[1:] == then


def test_distances_long_ago_do_not_matter(read):
    labels = ["1990", *map(str, range(2000, 2014))]
    assert read(column(labels), "x").labels_from(15, 1) == ["2014"]


@pytest.mark.parametrize("labels", [["3", "1", "2"], ["1", "1", "2"]])
def test_numbers_that_do_not_increase_are_no_times(read, labels):
    table = read(column(labels), "x")
    assert table.labels is None and table.times_from(0, 3) is None


def test_a_first_column_that_is_used_is_no_time(read):
    table = read("x,y\n1,2\n2,3\n", "y", "x")
    assert table.time is None and table.labels_from(0, 2) is None


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "x.csv is empty; expected the names of its columns"),
        ("\n\n", "x.csv is empty; expected the names of its columns"),
        ("a,b\n1,2\n", "x.csv has no column 'x'; its columns are 'a', 'b'"),
        ("x,x\n1,2\n", "x.csv has more than one column 'x'; its columns are 'x', 'x'"),
        ("a,x\n", "x.csv holds no rows behind the names of its columns"),
        ("a,x\n1,2\n3\n", "x.csv, line 3: expected 2 columns, got 1"),
        ("a,x\n1,2\n\n3,\n", "x.csv, line 4, column 'x': a value is missing: fill it in first"),
        ("a,x\n1, NaN \n", "x.csv, line 2, column 'x': a value is missing: fill it in first"),
        ("a,x\n1,n/a\n", "x.csv, line 2, column 'x': a value is missing: fill it in first"),
        ("a,x\n1,2 km\n", "x.csv, line 2, column 'x': expected a number, got '2 km'"),
        ("a,x\n1,inf\n", "x.csv, line 2, column 'x': expected a number, got 'inf'"),
        ('a,x\n1,"2', "x.csv cannot be read as CSV: unexpected end of data"),
        (
            column(["2024-01-03", "2024-01-02"]),
            "x.csv, line 3: 2024-01-02 does not come after 2024-01-03; rows must be in the order "
            "of time",
        ),
        (column(["2024-01", "2024-01"]), "x.csv, line 3: 2024-01 does not come after 2024-01; "),
        (column(["2024-02-30"]), "x.csv, its first column: Day out of range"),
        (column(["0000-01-01"]), "x.csv, its first column: Day out of range"),
    ],
)
def test_faults_are_named(read, text, sentence):
    with pytest.raises(ValueError) as caught:
        read(text, "x")
    assert str(caught.value).startswith(sentence)


PIECES = [
    "", "0", "9" * 30, "-", "/", ".", ":", "T", "Z", "\x00", '"', ",", ";", "\n", "\r", "1e400",
    "nan", "Feb 30, 2020", "0000-00-00", "24:61", "+99:99", "2020-W99", "10000-01-01", "1_0", "é",
]  # fmt: skip
FORMS = [
    lambda n: f"2024-01-{n:02d},{n}", lambda n: f"1/{n}/2024 10:00 PM,{n}",
    lambda n: f"{1700000000 + 60 * n},{n}", lambda n: f"2020Q{n % 4 + 1},{n}",
    lambda n: f'"Mar {n}, 2020",{n}', lambda n: f"store {n // 10},{n}",
    lambda n: f"2020-03-{n:02d}T10:00:00.5+01:00,{n}",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_damaged_tables_are_refused_in_a_sentence_or_in_order(read, form):
    """Any file gives a ValueError, or times that increase where rows belong together."""
    rng, whole = np.random.default_rng(0), "t,x\n" + "".join(f"{form(n)}\n" for n in range(1, 29))
    for _ in range(60):
        text = whole
        for _ in range(rng.integers(1, 4)):
            first, last = np.sort(rng.integers(len(text) + 1, size=2)).tolist()
            piece = PIECES[rng.integers(len(PIECES))]
            cut = text[first:last] * int(rng.integers(3)) if rng.random() < 0.4 else piece
            text = text[:first] + cut + text[last if rng.random() < 0.2 else first + 1 :]
        try:
            table = read(text, "x")
        except ValueError as fault:
            assert str(fault).startswith("x.csv") and len(str(fault)) < 2500
            continue
        assert np.isfinite(table.values).all()
        for first, stop in table.parts if table.times is not None else ():
            assert (table.times[first + 1 : stop] > table.times[first : stop - 1]).all()
        table.labels_from(len(table.values), 3)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"a,x\n1,\xff\n")
    with pytest.raises(ValueError, match=r"x\.csv cannot be read as CSV: 'utf-8' codec"):
        read_table(tmp_path / "x.csv", ["x"])
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "gone.csv", ["x"])
