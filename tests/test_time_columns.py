"""Times of rows: every common form read and written on, order, gaps, series; tables and indexes."""

import contextlib
import csv
import datetime
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import read_table

import fastlstm
from fastlstm import cli
from fastlstm.cli.table import read_tables
from fastlstm.dates import read_formatted, read_times
from fastlstm.times import breaks, continued
from fastlstm.training import (
    Adam,
    EarlyStopping,
    Forecaster,
    MSELoss,
    Sequences,
    Standardizer,
    Windows,
    seasonal_naive,
    split_at_gaps,
    split_by_time,
)

DAYS = np.arange("2024-01-25", "2024-04-20", dtype="M8[D]")[:80]
VALUES = np.sin(np.arange(80.0)) + np.arange(80) / 50


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(*columns, names=("date", "x"), sep=",", name="x.csv"):
    """A table of columns of anything that has a text."""
    with open(name, "w", newline="") as file:
        rows = csv.writer(file, delimiter=sep)
        rows.writerows([names, *zip(*columns, strict=True)])


def texts(form, days=DAYS):
    return [day.strftime(form) for day in days.tolist()]


# ---- forms ----------------------------------------------------------------------------------

FORMS = [
    ("2024-02-28", "2024-02-29", "2024-03-01", "2024-02-28"),
    ("2024/2/9", "2024/2/10", "2024/2/11", "2024-02-09"),
    ("2024.02.28", "2024.02.29", "2024.03.01", "2024-02-28"),
    ("2024-02-28 23:00", "2024-02-29 00:00", "2024-02-29 01:00", "2024-02-28T23:00"),
    ("2024-02-28T12:00:00Z", "2024-02-29T00:00:00Z", "2024-02-29T12:00:00Z", "2024-02-28T12:00"),
    ("2024-02-28 23:00+02:00", "2024-02-29 00:00+02:00", "2024-02-29 01:00+02:00",
     "2024-02-28T21:00"),
    ("2024-02-28T23:00-0530", "2024-02-29T00:00-0530", "2024-02-29T01:00-0530",
     "2024-02-29T04:30"),
    ("2024-02-28 23:59:59.250", "2024-02-28 23:59:59.750", "2024-02-29 00:00:00.250",
     "2024-02-28T23:59:59.250"),
    ("2024-02-28 00:00:00.000000001", "2024-02-28 00:00:00.000000003",
     "2024-02-28 00:00:00.000000005", "2024-02-28T00:00:00.000000001"),
    ("30/01/2024", "31/01/2024", "01/02/2024", "2024-01-30"),
    ("01/30/2024", "01/31/2024", "02/01/2024", "2024-01-30"),
    ("1/30/2024", "1/31/2024", "2/1/2024", "2024-01-30"),
    ("30-01-2024 06:00", "31-01-2024 06:00", "01-02-2024 06:00", "2024-01-30T06:00"),
    ("08.09.2024", "09.09.2024", "10.09.2024", "2024-09-08"),
    ("8.9.24", "9.9.24", "10.9.24", "2024-09-08"),
    ("1/30/24 10:00 PM", "1/30/24 11:00 PM", "1/31/24 12:00 AM", "2024-01-30T22:00"),
    ("1/30/24 11:00 a.m.", "1/30/24 12:00 p.m.", "1/30/24 01:00 p.m.", "2024-01-30T11:00"),
    ("Mar 20, 2020", "Mar 21, 2020", "Mar 22, 2020", "2020-03-20"),
    ("September 30, 2020", "October 1, 2020", "October 2, 2020", "2020-09-30"),
    ("20 Mar 2020", "21 Mar 2020", "22 Mar 2020", "2020-03-20"),
    ("31-DEC-19", "01-JAN-20", "02-JAN-20", "2019-12-31"),
    ("Fri, 20 Mar 2020 22:00:00 GMT", "Fri, 20 Mar 2020 23:00:00 GMT",
     "Sat, 21 Mar 2020 00:00:00 GMT", "2020-03-20T22:00"),
    ("Fri Mar 20 22:00:00 2020", "Fri Mar 20 23:00:00 2020", "Sat Mar 21 00:00:00 2020",
     "2020-03-20T22:00"),
    ("20240228", "20240229", "20240301", "2024-02-28"),
    ("20240228T2300", "20240229T0000", "20240229T0100", "2024-02-28T23:00"),
    ("20240228230000", "20240229000000", "20240229010000", "2024-02-28T23:00"),
    ("202411", "202412", "202501", "2024-11-01"),
    ("2024-11", "2024-12", "2025-01", "2024-11-01"),
    ("11/2024", "12/2024", "01/2025", "2024-11-01"),
    ("Nov 2024", "Dec 2024", "Jan 2025", "2024-11-01"),
    ("2024Q3", "2024Q4", "2025Q1", "2024-07-01"),
    ("Q3 2024", "Q4 2024", "Q1 2025", "2024-07-01"),
    ("2020-W52", "2020-W53", "2021-W01", "2020-12-21"),
    ("3Q2024", "4Q2024", "1Q2025", "2024-07-01"),
    ("2024022822", "2024022823", "2024022900", "2024-02-28T22:00"),
    ("30. April 2020", "1. May 2020", "2. May 2020", "2020-04-30"),
    ("2024-02-28T23:59:59.98Z", "2024-02-28T23:59:59.99Z", "2024-02-29T00:00:00.00Z",
     "2024-02-28T23:59:59.980"),
]  # fmt: skip


@pytest.mark.parametrize("first, second, third, moment", FORMS)
def test_common_forms_are_read_and_written(first, second, third, moment):
    times = read_times([first, second])
    assert times.values[0] == np.datetime64(moment) and times.are_dates
    assert times.write(continued(times.values, 1)) == [third]
    assert times.write(times.values)[1].replace("000", "") == second.replace("000", "")
    reversed_values = read_times([second, first]).values
    assert (np.diff(reversed_values) < np.timedelta64(0)).all()


@pytest.mark.parametrize("clock", ["00:00:00", "17:30:00"])
def test_days_go_on_over_changes_of_the_clock(clock):
    for days in (DAYS, DAYS[np.is_busday(DAYS)]):
        labels = [f"{day}T{clock}+0{1 + (day > np.datetime64('2024-03-30'))}:00" for day in days]
        for count in (len(days), 50):  # the clock changes long before the end, or shortly before
            times = read_times(labels[:count])
            assert breaks(times.values)[0].tolist() == []
            then = continued(times.values, 3)
            assert (then.astype("M8[D]") == continued(days[:count], 3)).all()
            assert times.write(then) == [
                f"{day}T{clock}{labels[count - 1][-6:]}" for day in continued(days[:count], 3)
            ]


def test_decimal_years_and_months_after_a_point():
    months = read_times(["2023.11", "2023.12", "2024.01"])
    assert months.values.astype(str).tolist() == ["2023-11-01", "2023-12-01", "2024-01-01"]
    assert months.write(continued(months.values, 2)) == ["2024.02", "2024.03"]
    years = read_times(["2023.50", "2023.75", "2024.00"])
    assert years.values.tolist() == [2023.5, 2023.75, 2024]
    assert years.write(continued(years.values, 1)) == ["2024.25"]


@pytest.mark.parametrize(
    "labels, then",
    [
        (["1700000000123", "1700000060123"], "1700000120123"),
        (["1700000000123456789", "1700000000123456790"], "1700000000123456791"),
        (["1700000000", "1700003600"], "1700007200"),
        (["0.1", "0.2", "0.3"], "0.4"),
        (["1e3", "2e3"], "3000"),
        ([str(2**63 - 3), str(2**63 - 2)], "9223372036854775808"),
        (["20230231", "20230232"], "20230233"),  # no date
    ],
)
def test_numbers_keep_their_digits(labels, then):
    times = read_times(labels)
    assert times.write(continued(times.values, 1)) == [then]


def test_what_is_beyond_all_times():
    assert read_times(["9" * 400, "1e999"]) is None
    last = read_times(["9999-12-30", "9999-12-31"])
    assert continued(last.values, 1) is None
    assert read_times(["9999", "10000"]).write(np.array([10001])) == ["10001"]
    for labels, count in ((["0", str(2**61)], 5), (["0.0", "1e307"], 30)):
        values = read_times(labels).values  # more of them would wrap around, or be infinite
        assert continued(values, 1) is not None and continued(values, count) is None


def test_days_and_months_are_told_apart_by_the_whole_column_or_not_at_all():
    assert read_times(["01/02/2024", "13/02/2024"]).values[0] == np.datetime64("2024-02-01")
    assert read_times(["01/02/2024", "02/13/2024"]).values[0] == np.datetime64("2024-01-02")
    # days 1 to 12 of January and a year of months: only one of them is regular
    months = np.arange("2020-01", "2022-01", dtype="M8[M]").astype("M8[D]")
    for form in ("%m/%d/%Y", "%d/%m/%Y", "%d/%m/%y", "%y-%m-%d"):
        assert read_times(texts(form, months)).values.tolist() == months.tolist()
    with pytest.raises(
        ValueError,
        match=r"cannot be told apart, as in '01/02/2024': give --date-format '%d/%m/%Y' or "
        r"--date-format '%m/%d/%Y'",
    ):
        read_times(["01/02/2024", "02/02/2024"])
    with pytest.raises(ValueError, match="cannot be told apart"):
        read_times(texts("%d/%m/%Y", months[::-1]))
    with pytest.raises(ValueError, match=r"'%d-%m-%y %H:%M' or .* '%y-%m-%d %H:%M'"):
        read_times(["24-01-10 10:00", "24-01-10 11:00"])
    same = read_times(["01/01/2024", "02/02/2024"])
    assert same.values[1] == np.datetime64("2024-02-02")
    for form, month in (("%d/%m/%Y", 2), ("%m/%d/%Y", 1)):
        times = read_formatted(["01/02/2024", "02/02/2024"], form)
        assert times.values[0].item().month == month
        assert times.write(times.values) == ["01/02/2024", "02/02/2024"]


@given(
    st.dates(datetime.date(1970, 1, 1), datetime.date(2060, 1, 1)),
    st.sampled_from([1, 2, 7, 14, 28, 30, 31, 91, "month", "quarter"]),
    st.integers(2, 40),
    st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%y-%m-%d", "%d-%m-%y %H:%M"]),
    st.booleans(),
)
@example(datetime.date(2001, 3, 30), 28, 12, "%d/%m/%y", True)  # as years 2 or 3 years apart
@settings(max_examples=300, deadline=None)
def test_a_date_is_read_as_it_was_meant_or_refused(day, step, count, form, newest_first):
    if isinstance(step, int):
        meant = np.datetime64(day) + step * np.arange(count)
    else:
        months = np.datetime64(day, "M") + {"month": 1, "quarter": 3}[step] * np.arange(count)
        meant = months.astype("M8[D]") + min(day.day, 28) - 1
    meant = meant[meant < np.datetime64("2069-01-01")][:: -1 if newest_first else 1]
    try:
        times = read_times(texts(form, meant))
    except ValueError as error:
        assert "cannot be told apart" in str(error)
    else:
        assert (times.values == meant).all()
        assert times.write(times.values) == texts(form, meant)


@pytest.mark.parametrize(
    "labels, sentence",
    [
        (["2024-02-30"], "Day out of range in '2024-02-30'"),
        (["2024-02-28", "2023-02-29"], "Day out of range in '2023-02-29'"),
        (["32/01/2024"], "Day out of range in '32/01/2024'"),
        (["2024-01-01 24:00"], "Day out of range in '2024-01-01 24:00'"),
        (["2024-W52", "2024-W53"], "Day out of range in '2024-W53'"),
        (["2024-W00"], "Day out of range in '2024-W00'"),
        (["2300-01-01 00:00:00.123456789"], "Day out of range in '2300-01-01"),
        (["31/12/2024", "12/31/2024"], "days come before months in some places, and after them"),
        (["2024-01-01 00:00", "2024-01-01 00:00Z"], "some times have an offset from UTC, and oth"),
    ],
)
def test_dates_that_are_none(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_times(labels)


def test_an_offset_may_lead_out_of_all_years():
    with pytest.raises(
        ValueError, match="'0001-01-01 [+]0500' is before year 1 or behind year 999"
    ):
        read_formatted(["2024-01-01 +0000", "0001-01-01 +0500"], "%Y-%m-%d %z")


def test_other_words_are_no_times():
    for labels in (["Monday", "Tuesday"], ["10:00", "11:00"], ["a1", "a2"], ["", ""], ["Jan-20"]):
        assert read_times(labels) is None
    assert read_formatted(["10:00", "11:00"], "%H:%M").write(
        np.array(["1900-01-01T12:00"], "M8[us]")
    ) == ["12:00"]


# ---- distances ------------------------------------------------------------------------------


def days(*texts):
    return np.array(texts, "M8[D]")


def test_gaps_are_where_the_distance_is_not_the_usual():
    assert breaks(DAYS)[0].tolist() == []
    rows, usual = breaks(np.delete(DAYS, [10, 40, 41, 42]))
    assert rows.tolist() == [10, 39] and usual == np.timedelta64(1, "D")
    hours = np.arange("2024-01-01", "2024-01-05", dtype="M8[h]").astype("M8[us]")
    assert breaks(np.insert(hours, 5, hours[5]))[0].tolist() == [6], "a time that is there twice"
    months = np.arange("2020-01", "2024-01", dtype="M8[M]").astype("M8[D]")
    for regular in (months, months[::3], months[::12], months - 1):
        assert breaks(regular)[0].tolist() == []
    assert breaks(np.delete(months, 7))[0].tolist() == [7]
    assert breaks(np.array([1, 2, 3, 7, 8, 9]))[0].tolist() == [3]


def test_weekends_and_holidays_are_no_gaps_of_working_days():
    working = DAYS[np.is_busday(DAYS)]
    holidays = np.delete(working, [20, 33, 34])
    assert breaks(holidays)[0].tolist() == []
    assert breaks(np.delete(working, range(20, 26)))[0].tolist() == [20]
    assert continued(holidays, 3).tolist() == np.busday_offset(holidays[-1], [1, 2, 3]).tolist()
    noon = holidays.astype("M8[us]") + np.timedelta64(12, "h")
    assert continued(noon, 1)[0] == np.busday_offset(holidays[-1], 1) + np.timedelta64(12, "h")
    # three days off a week before a Monday would be gaps of a series that has weekends
    assert breaks(np.delete(DAYS, [20, 21, 22]))[0].tolist() == [20]


@pytest.mark.parametrize("off", [[6], [4, 5]], ids=["Sundays", "Fridays and Saturdays"])
def test_weeks_of_other_working_days_show_themselves(off):
    week = [n not in off for n in range(7)]
    working = DAYS[np.is_busday(DAYS, week)]
    assert breaks(working)[0].tolist() == [] and breaks(np.delete(working, 20))[0].tolist() == []
    assert breaks(np.delete(working, range(20, 26)))[0].tolist() == [20]
    then = np.busday_offset(working[-1], np.arange(1, 9), weekmask=week)
    assert continued(working, 8).tolist() == then.tolist()
    # one or two days that are missing in a series of all days are gaps
    assert breaks(np.delete(DAYS, off))[0].tolist() == [off[0]]
    assert breaks(np.delete(DAYS[:20], [*off, *(n + 7 for n in off)]))[0].tolist() == [
        off[0], off[0] + 7 - len(off),
    ]  # fmt: skip


def test_irregular_distances_have_no_gaps():
    times = np.cumsum(np.random.default_rng(0).exponential(1000, 50)).astype(int)
    rows, usual = breaks(np.insert(times, 20, times[20]))
    assert rows.tolist() == [21] and usual is None


# ---- tables ---------------------------------------------------------------------------------

NEWEST_FIRST = [
    "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%b %d, %Y", "%d %B %Y", "%Y%m%d", "%Y-%m-%dT00:00:00Z",
    "%d.%m.%Y", "%Y-%m-%d 00:00+0100", "%d-%b-%y",
]  # fmt: skip


@pytest.mark.parametrize("form", NEWEST_FIRST)
def test_newest_first_is_refused_in_every_form(form):
    labels = texts(form)
    write(labels[::-1], VALUES)
    with pytest.raises(ValueError) as caught:
        read_table("x.csv", ["x"])
    assert str(caught.value) == (
        f"x.csv, line 3: {labels[-2]} does not come after {labels[-1]}; rows must be in the order "
        "of time, the oldest first: reverse their order"
    )
    write(labels, VALUES)
    table = read_table("x.csv", ["x"])
    assert table.times.astype("M8[D]")[-1] - table.times.astype("M8[D]")[0] == 79
    more = np.arange(DAYS[-1] + 1, DAYS[-1] + 3)
    assert table.labels_from(80, 2) == texts(form, more)


@pytest.mark.parametrize(
    "labels",
    [range(2000, 1920, -1), range(1700000000, 1699999200, -10), np.arange(80)[::-1] / 4],
    ids=["years", "seconds", "quarters"],
)
def test_numbers_that_decrease_are_refused(labels):
    write(labels, VALUES)
    with pytest.raises(ValueError, match="rows must be in the order of time, the oldest first"):
        read_table("x.csv", ["x"])


def test_rows_out_of_order_are_named():
    labels = texts("%d/%m/%Y")
    labels[10], labels[30], labels[31] = labels[11], labels[31], labels[30]
    labels[10:12] = labels[11:9:-1]
    labels[50], labels[60] = labels[40], labels[50]
    write(labels, VALUES)
    with pytest.raises(
        ValueError, match=r"order of time\. The same is so at lines \d.* need --group, the"
    ):
        read_table("x.csv", ["x"])
    numbers = list(range(2000, 2080))
    numbers[40] = 1950
    write(numbers, VALUES)
    with pytest.raises(ValueError, match=r"^x\.csv, line 42: 1950 does not come after 2039; rows"):
        read_table("x.csv", ["x"])


def test_times_are_found_behind_a_counter_an_id_or_the_values():
    counter, ids = range(5, 85), np.random.default_rng(0).integers(1000, size=80)
    for columns, names in [
        ((counter, DAYS[::-1], VALUES), ("", "date", "x")),
        ((ids, DAYS[::-1], VALUES), ("id", "date", "x")),
        ((VALUES, DAYS[::-1]), ("x", "date")),
        ((["a"] * 80, DAYS[::-1], VALUES), ("place", "date", "x")),
    ]:
        write(*columns, names=names)
        with pytest.raises(ValueError, match="line 3: 2024-04-12 does not come after 2024-04-13"):
            read_table("x.csv", ["x"])
        columns = [
            column if column is not columns[names.index("date")] else DAYS for column in columns
        ]
        write(*columns, names=names)
        assert read_table("x.csv", ["x"]).time == "date"


def test_a_clock_behind_a_date_belongs_to_it():
    hours = np.arange("2024-01-30T20", "2024-02-09", dtype="M8[h]")[:80]
    dates, clocks = texts("%d/%m/%Y", hours), texts("%H:%M:%S", hours)
    for names, columns in {
        ("Date", "Time", "x"): (dates, clocks, VALUES),
        ("x", "Date", "Time"): (VALUES, dates, clocks),
        ("n", "Date", "Time", "x"): (range(80), dates, clocks, VALUES),
    }.items():
        write(*columns, names=names)
        table = read_table("x.csv", ["x"])
        assert table.time == "Date Time" and table.times[0] == hours[0]
        assert table.labels_from(80, 1) == ["03/02/2024 04:00:00"]
    clocks[3] = clocks[2]
    write(dates, clocks, VALUES, names=("Date", "Time", "x"))
    assert read_table("x.csv", ["x"]).notes == [
        "line 5: 30/01/2024 22:00:00 is repeated",
        "line 6: a gap, 31/01/2024 00:00:00 comes 2 hours after 30/01/2024 22:00:00; usual is 1 "
        "hour",
    ]


@pytest.mark.parametrize("first", [(), ("No",), ("x",)])
@pytest.mark.parametrize(
    "names, unit, then",
    [
        (("year", "month"), "M", "2025-12"),
        (("Year", "Month", "Day"), "D", "2019-07-21"),
        (("year", "month", "day", "hour"), "h", "2019-05-05 08:00"),
        (("year", "month", "day", "hour", "minute"), "m", "2019-05-02 01:20"),
    ],
)
def test_the_parts_of_a_date_may_be_columns(names, unit, then, first):
    start = {"M": "2019-04", "D": "2019-05-02"}.get(unit, "2019-05-02T00:00")
    times = (np.datetime64(start, unit) + np.arange(80)).astype("M8[m]").tolist()
    parts = [[getattr(time, name.lower()) for time in times] for name in names]
    for order in (1, -1):
        columns = [column[::order] for column in parts]
        own = {(): [], ("No",): [range(1, 81)], ("x",): []}[first]
        columns, header = [*own, *columns, VALUES], [*first[: len(own)], *names, "x"]
        if first == ("x",):
            columns, header = [columns[-1], *columns[:-1]], [header[-1], *header[:-1]]
        write(*columns, names=header)
        if order == 1:
            table = read_table("x.csv", ["x"])
            assert table.time == " ".join(names) and table.notes == []
            assert table.times.astype(f"M8[{unit}]").tolist() == [
                time.astype(f"M8[{unit}]").item() for time in np.array(times, "M8[m]")
            ]
            assert table.labels_from(80, 1) == [then]
        else:
            with pytest.raises(ValueError, match="line 3: .* rows must be in the order of time, t"):
                read_table("x.csv", ["x"])


def test_dates_tell_the_times_rather_than_keys_that_grow():
    keys = np.cumsum(np.arange(80) % 5 + 1)
    write(keys, DAYS, VALUES, names=("id", "date", "x"))
    table = read_table("x.csv", ["x"])
    assert table.labels_from(80, 1) == [str(DAYS[-1] + 1)] and not table.notes
    # but not of another kind than the numbers' own
    seconds, changed = 1700000000 + 3600 * np.arange(80), np.repeat(DAYS[:10], 8)
    for others in (changed, [*changed[:5], "", *changed[6:]]):
        write(seconds, others, VALUES, names=("unix", "changed", "x"))
        assert read_table("x.csv", ["x"]).labels_from(80, 1) == [str(seconds[-1] + 3600)]


def test_hours_may_stand_beside_dates():
    hours = np.arange("2024-02-28T20", "2024-03-03T04", dtype="M8[h]").tolist()
    dates, clock = [f"{h:%d.%m.%Y}" for h in hours], [h.hour for h in hours]
    for columns, names in (
        ((dates, clock, VALUES), ("date", "hour", "x")),
        ((clock, dates, VALUES), ("Hour", "date", "x")),
        ((VALUES, dates, clock), ("x", "date", "HOUR")),
    ):
        write(*columns, names=names)
        for used in (["x"], ["x", names[0]] if names[0] == "Hour" else ["x"]):
            table = read_table("x.csv", used)
            assert table.times.astype("M8[h]").tolist() == hours and not table.notes
            assert table.labels_from(80, 1) == ["03.03.2024 04:00"]
    write(DAYS, clock, VALUES, names=("date", "hour", "x"))  # of a day's peak, say
    assert read_table("x.csv", ["x"]).labels_from(80, 1) == [str(DAYS[-1] + 1)]


@pytest.mark.parametrize("names", [("year", "month", "day", "hour"), ("year", "month")])
def test_a_part_of_the_time_may_be_an_input_too(names):
    times = np.arange("2019-04", "2025-12", dtype="M8[M]")[:80]
    times = (times if len(names) == 2 else times[0].astype("M8[h]") + np.arange(80)).astype("M8[m]")
    write(*([getattr(t, n) for t in times.tolist()] for n in names), VALUES, names=(*names, "x"))
    table = read_table("x.csv", ["x", names[-1]])
    assert table.times.astype("M8[m]").tolist() == times.tolist()
    write([d.year for d in DAYS.tolist()], [d.month for d in DAYS.tolist()], VALUES,
          names=("year", "month", "x"))  # fmt: skip
    assert read_table("x.csv", ["x", "year", "month"]).times is None  # they do not tell the day
    with pytest.raises(ValueError, match="order of time"):
        read_table("x.csv", ["x"])


def test_a_date_that_is_missing_or_of_another_form():
    labels = texts("%Y-%m-%d")
    for wrong in ("", "25/01/2024", "2024-02-03x"):
        labels[9] = wrong
        write(labels, VALUES)
        with pytest.raises(ValueError, match=f"column: line 11 has '{wrong}', which is not a time"):
            read_table("x.csv", ["x"])


def test_what_is_no_time_among_times_is_named():
    for labels, line, text in (
        (["[UTC]", *texts("%Y-%m-%d")[1:]], 2, "[UTC]"),
        ([*texts("%d/%m/%Y")[:10], "Total", *texts("%d/%m/%Y")[11:]], 12, "Total"),
        (["", *range(1921, 2000)], 2, ""),
        ([*range(1920, 1999), "n/a"], 81, "n/a"),
    ):
        write(labels, VALUES)
        with pytest.raises(
            ValueError, match=f"line {line} has '{re.escape(text)}', which is not a t"
        ):
            read_table("x.csv", ["x"])
    write(VALUES, ["", *DAYS[1:]], names=("x", "date"))  # though the first of them is missing
    with pytest.raises(ValueError, match="its column 'date': line 2 has '', which is not a time"):
        read_table("x.csv", ["x"])


def test_a_measurement_with_gaps_is_neither_time_nor_words():
    rain = np.array([5, "", 7, 2, "NaN"] * 16)
    for measurement in (rain, [""] * 80):
        write(measurement, DAYS, VALUES, names=("rain", "date", "x"))
        assert read_table("x.csv", ["x"]).labels_from(80, 1) == texts("%Y-%m-%d", DAYS[-1:] + 1)
    write(rain, VALUES, names=("rain", "x"))
    assert read_table("x.csv", ["x"]).time is None


def test_times_stand_first_or_behind_a_group_that_does():
    hours, stores = np.tile(np.arange(40) % 24, 2), np.repeat(["north", "south"], 40)
    write(VALUES, hours, stores, names=("x", "hour", "store"))  # a column that is not used
    assert [t.time for t in read_tables("x.csv", ["x"], group="store")] == [None, None]
    write(stores, hours, VALUES, names=("store", "hour", "x"))
    with pytest.raises(ValueError, match="line 26: 0 does not come after 23"):
        read_tables("x.csv", ["x"], group="store")


def test_spaces_behind_separators_and_empty_lines_before_the_names():
    Path("x.csv").write_text('\n\n"date", "x"\n\n"2024-01-31", "1.5"\n "2024-02-01",  2\n')
    table = read_table("x.csv", ["x"])
    assert table.values.tolist() == [[1.5], [2]] and table.lines == [5, 6]
    assert table.labels_from(2, 1) == ["2024-02-02"]


def test_a_first_column_of_words_is_a_group_or_refused():
    write(np.repeat(["north", "south"], 40), VALUES, names=("store", "x"))
    with pytest.raises(ValueError, match=r"'store' holds words \('north', 'south'\), and no"):
        read_table("x.csv", ["x"])
    for stores in (np.repeat([3, 7], 40), np.repeat([3, 9, 7, 8], 20)):
        write(stores, VALUES, names=("store", "x"))
        with pytest.raises(ValueError, match="'store' holds runs of equal numbers.* give --group"):
            read_table("x.csv", ["x"])
    write(np.repeat([0, 1, 0], [30, 20, 30]), VALUES, names=("holiday", "x"))
    assert read_table("x.csv", ["x"]).time is None
    # though the times of one begin where those of the other end
    write(np.repeat(["north", "south"], 40), DAYS, VALUES, names=("store", "date", "x"))
    with pytest.raises(ValueError, match=r"'store' holds .* give --group store;"):
        read_table("x.csv", ["x"])
    for kind in (["north", "south"], [7, 3]):
        write(np.repeat(kind, 40), [*DAYS[:40], *DAYS[:40]], VALUES, names=("store", "date", "x"))
        with pytest.raises(ValueError, match=r"line 42: .* need --group|give --group store;"):
            read_table("x.csv", ["x"])
        for rows in (slice(None), np.arange(80).reshape(2, 40).T.ravel()):  # one by one, in turn
            stores, dates = np.repeat(kind, 40)[rows], np.tile(DAYS[:40], 2)[rows]
            write(stores, dates, VALUES[rows], names=("store", "date", "x"))
            tables = read_tables("x.csv", ["x"], group="store")
            assert [table.group for table in tables] == [str(name) for name in kind]
            for table, values in zip(tables, (VALUES[:40], VALUES[40:]), strict=True):
                assert table.values[:, 0].tolist() == values.tolist()
                assert table.labels_from(39, 2) == ["2024-03-04", "2024-03-05"]
                assert table.parts == [(0, 40)]
    write(np.tile(DAYS[:40], 2), np.repeat(kind, 40), VALUES, names=("date", "store", "x"))
    assert len(read_tables("x.csv", ["x"], group="store")) == 2
    with pytest.raises(ValueError, match="--group x: this column is a target or an input"):
        read_tables("x.csv", ["x"], group="x")


def test_a_wrong_separator_is_named():
    commas = [f"{value:.3f}".replace(".", ",") for value in VALUES]
    for sep, shown in {";": "';'", "\t": "tab", "|": "'|'"}.items():
        write(DAYS, commas, sep=sep)
        with pytest.raises(
            ValueError, match=rf"has no column 'x'; .* --sep {shown[:2]}".replace("|", r"\|")
        ):
            read_table("x.csv", ["x"])
        with pytest.raises(
            ValueError, match=r"line 2, column 'x': .* '0,000'; is it --decimal ,\?"
        ):
            read_table("x.csv", ["x"], sep=sep)
        table = read_table("x.csv", ["x"], sep=sep, decimal=",")
        np.testing.assert_allclose(table.values[:, 0], VALUES, atol=5e-4)
    write(DAYS, VALUES)
    with pytest.raises(ValueError, match=r"--sep ','$"):
        read_table("x.csv", ["x"], sep=";")
    with pytest.raises(ValueError, match=r"got '0\.0'; is it --decimal \.\?"):
        read_table("x.csv", ["x"], decimal=",")


@pytest.mark.parametrize("text", ["1_000", "9" * 5000, "1e999", "١٢", "0x10", "infinity", "1 000"])
def test_what_python_takes_for_a_number_is_not_one(text):
    write([1, 2], ["3", text], names=("t", "x"))
    with pytest.raises(ValueError) as caught:
        read_table("x.csv", ["x"])
    assert str(caught.value).startswith("x.csv, line 3, column 'x': expected a number, got '")
    assert len(str(caught.value)) < 200


# ---- train and forecast ---------------------------------------------------------------------

TRAIN = "train x.csv --target x --window 5 --horizon 2 --hidden 3 --epochs 2 -o m.npz"


def run(line, *more, code=0):
    assert cli.main([*line.split(), *more]) == code


def refused(capsys, line, *more):
    """What a command says that fails."""
    run(line, *more, code=1)
    return capsys.readouterr().err.removeprefix("fastlstm: error: ")


def by_api(parts, held_out):
    """The training of the command on these parts, and its backtests from (part, start)."""
    model = fastlstm.Sequential(
        {
            "lstm": fastlstm.LSTM(1, 3, seed=0),
            "last": fastlstm.Last(),
            "linear": fastlstm.Linear(3, 2, seed=0),
        }
    )
    f = Forecaster(model, Standardizer.fit(parts), 5, 2, columns=["x"])
    validation = f.windows([part[start - 5 :] for part, start in held_out])
    history = fastlstm.fit(
        model, f.windows(parts), MSELoss(), Adam(model, lr=0.005), 2, 32,
        clip_norm=1, seed=0, validation=validation, callbacks=[EarlyStopping(20)],
    )  # fmt: skip
    errors = []
    for part, start in held_out:
        first, forecast, truth = f.backtest(part, start)
        errors.append([forecast - truth, seasonal_naive(part, first, 2) - truth])
    return f, history, [np.sqrt(np.mean(np.concatenate(e) ** 2)) for e in zip(*errors, strict=True)]


def assert_as_by_api(capsys, parts, held_out):
    expected, history, (rmse, naive) = by_api(parts, held_out)
    out = capsys.readouterr().out
    assert f"; {sum(map(len, parts))} to train on\n" in out
    assert f"epoch 2/2: loss {history['loss'][1]:.4g}, validation loss " in out
    assert f"validation loss {history['validation_loss'][1]:.4g}\n" in out
    assert [line.split()[-2] for line in out.splitlines()[-2:]] == [f"{rmse:.4g}", f"{naive:.4g}"]
    state = expected.model.state_dict()
    for name, array in fastlstm.load_state("m.npz").items():
        np.testing.assert_array_equal(array, state[name])
    return expected


def test_no_window_crosses_a_gap(capsys):
    """20 days without rows and a day that is there twice make three series."""
    dates = np.concatenate([DAYS[:30], DAYS[30:] + 20])
    dates[45:] -= 1
    write(dates, VALUES)
    x = VALUES[:, None]
    assert (
        "32: a gap, 2024-03-15 comes 21 days after 2024-02-23, line 47: 2024-03-29 is repeated"
        in (refused(capsys, TRAIN, "--gaps", "error"))
    )
    run(TRAIN)
    assert_as_by_api(capsys, [x[:30], x[30:45], x[45:64]], [(x[45:], 19)])
    run(TRAIN)
    err = capsys.readouterr().err
    assert err == (
        "x.csv: cut, and no window crosses: line 32: a gap, 2024-03-15 comes 21 days after "
        "2024-02-23, line 47: 2024-03-29 is repeated; usual is 1 day\n"
    )


def test_a_part_in_the_middle_may_be_held_out_whole(capsys):
    dates = np.concatenate([DAYS[:70], DAYS[70:] + 20])
    write(dates, VALUES)
    x = VALUES[:, None]
    run(TRAIN)
    assert_as_by_api(capsys, [x[:64]], [(x[:70], 64), (x[70:], 5)])


def test_each_store_is_a_series(capsys):
    write(np.repeat(["a", "b"], 40), np.tile(DAYS[:40], 2), VALUES, names=("store", "date", "x"))
    assert "give --group store" in refused(capsys, TRAIN)
    run(TRAIN, "--group", "store")
    a, b = VALUES[:40, None], VALUES[40:, None]
    f = assert_as_by_api(capsys, [a[:32], b[:32]], [(a, 32), (b, 32)])
    run("forecast m.npz x.csv --group store")
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["store", "date", "x"]
    assert [row[:2] for row in rows] == [
        ["a", "2024-03-05"], ["a", "2024-03-06"], ["b", "2024-03-05"], ["b", "2024-03-06"],
    ]  # fmt: skip
    values = np.array([row[2] for row in rows], float)
    expected = [*f.forecast(a)[:, 0], *f.forecast(b)[:, 0]]
    np.testing.assert_allclose(values, expected, rtol=1e-8)
    run("forecast m.npz x.csv --group store --holdout 2 -o out.csv")
    errors = np.concatenate([f.forecast(s[:38]) - s[38:] for s in (a, b)])
    line = capsys.readouterr().out.splitlines()[-2].split()
    assert line == [
        "forecast",
        f"{np.sqrt(np.mean(errors**2)):.4g}",
        f"{np.abs(errors).mean():.4g}",
    ]
    if importlib.util.find_spec("matplotlib"):
        assert "--plot draws one series, x.csv has 2" in refused(
            capsys, "forecast m.npz x.csv --group store --plot x.png"
        )


def test_a_forecast_goes_on_in_the_tables_own_form(capsys):
    for form in NEWEST_FIRST:
        write(texts(form), VALUES)
        run(TRAIN)
        capsys.readouterr()
        run("forecast m.npz x.csv")
        (_, *rows) = csv.reader(capsys.readouterr().out.splitlines())
        assert [row[0] for row in rows] == texts(form, np.array([DAYS[-1] + 1, DAYS[-1] + 2]))
        write(texts(form)[::-1], VALUES)
        assert "rows must be in the order of time" in refused(capsys, "forecast m.npz x.csv")
        assert "rows must be in the order of time" in refused(capsys, TRAIN)


def test_days_and_months_that_cannot_be_told_apart(capsys):
    twelve = np.arange("2024-02-01", "2024-02-13", dtype="M8[D]")
    write(texts("%d/%m/%Y", twelve), VALUES[:12])
    line = TRAIN.replace("--epochs", "--validation 0 --epochs")
    assert "cannot be told apart, as in '01/02/2024': give --date-form" in refused(capsys, line)
    for form, then in (("%d/%m/%Y", "13/02/2024"), ("%m/%d/%Y", "01/02/2025")):
        run(line, "--date-format", form)
        capsys.readouterr()
        run("forecast m.npz x.csv --date-format", form)
        assert capsys.readouterr().out.splitlines()[1].startswith(f"{then},")
    assert "'01/02/2024' is not of the form --date-format '%Y'" in refused(
        capsys, line, "--date-format", "%Y"
    )


def test_a_forecast_says_where_times_cannot_go_on(capsys):
    irregular = np.cumsum(np.random.default_rng(1).exponential(3600, 80)).astype("m8[s]")
    write(np.datetime64("2024-01-01", "s") + irregular, VALUES)
    run(TRAIN)
    assert "x.csv: rows are at irregular distances, from " in capsys.readouterr().err
    run("forecast m.npz x.csv")
    out, err = capsys.readouterr()
    assert out.startswith("step,x\n1,")
    assert err == (
        "x.csv: its last rows do not tell the times of those that follow, which are numbered\n"
    )


def test_a_forecast_from_behind_a_gap_needs_a_window_there(capsys):
    write(DAYS, VALUES)
    run(TRAIN)
    capsys.readouterr()
    for rows_behind, code in ((4, 1), (5, 0)):
        dates = DAYS + 10 * (np.arange(80) >= 80 - rows_behind)
        write(dates, VALUES)
        run("forecast m.npz x.csv", code=code)
        out, err = capsys.readouterr()
        if code:
            assert (
                "x.csv has 4 rows to forecast from where it was cut last (line 78: a gap, 2024"
                in err
            )
        else:
            assert [line[:10] for line in out.splitlines()[1:]] == ["2024-04-24", "2024-04-25"]


def test_what_a_forecast_does_not_use_may_be_blank_or_absent(capsys):
    """These are columns that are targets alone, and all rows before the window."""
    write(DAYS, VALUES, VALUES**2, names=("date", "x", "y"))
    run(TRAIN.replace("--target x", "--target y --inputs x"))
    capsys.readouterr()
    run("forecast m.npz x.csv")
    expected = capsys.readouterr().out
    blank = np.where(np.arange(80) < 75, "", VALUES)
    write(DAYS, blank)
    run("forecast m.npz x.csv")
    assert capsys.readouterr().out == expected
    blank[77] = "?"
    write(DAYS, blank)
    assert "x.csv, line 79, column 'x': a value is missing" in refused(
        capsys, "forecast m.npz x.csv"
    )
    assert "has no column 'y'" in refused(capsys, "forecast m.npz x.csv --holdout 2")
    write(DAYS, VALUES, np.where(np.arange(80) == 79, "", VALUES), names=("date", "x", "y"))
    assert "x.csv, line 81, column 'y': a value is missing" in refused(
        capsys, "forecast m.npz x.csv --holdout 2"
    )


@pytest.mark.parametrize("text", ["", ";;", "a", '"', "\n"])
def test_separators_are_one_character(text, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main([*TRAIN.split(), "--sep", text])
    assert leave.value.code == 2 and "expected one character or tab" in capsys.readouterr().err


# ---- an index of dates ----------------------------------------------------------------------


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas", reason="DataFrames need pandas")


def calls(series):
    """All functions that read rows as steps of time."""
    f = by_api([VALUES[:, None]], [(VALUES[:, None], 64)])[0]
    return [
        lambda: Windows(series, 3),
        lambda: Windows([series, series], 3),
        lambda: Sequences([series], [0]),
        lambda: f.windows(series),
        lambda: f.backtest(series),
        lambda: f.forecast(series),
    ]


def test_an_index_of_numbers_that_goes_back_is_of_rows_in_disorder(pandas):
    frame = pandas.DataFrame({"x": VALUES})
    assert len(Windows(frame.iloc[::2], 3)) == 37
    for wrong in (
        pandas.concat([frame[:40], frame[:40]]),
        frame.sample(frac=1, random_state=0),
        frame.sort_values("x", ascending=False),
    ):
        with pytest.raises(ValueError, match=r"order of time, got .* if its numbers tell times; "):
            Windows(wrong, 3)
        assert len(Windows(wrong.reset_index(drop=True), 3)) == 77


def test_an_index_of_texts_that_cannot_be_read_says_so(pandas):
    twelve = texts("%d/%m/%Y", np.arange("2024-02-01", "2024-02-13", dtype="M8[D]"))
    with pytest.raises(ValueError, match=r"got texts: days and .* '01/02/2024'\. Make it"):
        Windows(pandas.Series(VALUES[:12], twelve), 3)
    stations = pandas.Series(VALUES[:3], ["north", "south", "east"])
    assert len(Windows(stations, 2)) == 1


@pytest.mark.parametrize(
    "kind", ["dates", "zone", "periods", "durations", "texts", "years", "objects", "seconds"]
)
def test_an_index_in_reverse_is_refused(pandas, kind):
    index = {
        "dates": lambda: pandas.DatetimeIndex(DAYS),
        "zone": lambda: pandas.DatetimeIndex(DAYS).tz_localize("Europe/Berlin"),
        "periods": lambda: pandas.period_range("2001-01", periods=80, freq="M"),
        "durations": lambda: pandas.to_timedelta(np.arange(80), unit="h"),
        "texts": lambda: texts("%d/%m/%Y"),
        "years": lambda: range(1920, 2000),
        "objects": lambda: DAYS.tolist(),  # of Python's datetime
        "seconds": lambda: 1.7e9 + np.arange(80) * 3600.5,
    }[kind]()
    frame = pandas.DataFrame({"x": VALUES}, index=index)
    assert len(Windows(frame, 3)) == len(Windows(frame["x"], 3)) == 77
    assert Windows(split_by_time(frame)[1], 3)[:].y[-1, 0, 0] == np.float32(VALUES[-1])
    for series in (frame[::-1], frame["x"][::-1]):
        for call in [*calls(series), lambda s=series: split_by_time(s)]:
            with pytest.raises(ValueError, match=r"order of time, got .* in row 1: sort them, as"):
                call()


def test_an_index_with_gaps_is_refused_and_can_be_cut(pandas):
    frame = pandas.DataFrame({"x": VALUES}, pandas.DatetimeIndex(DAYS)).drop(DAYS[[20, 21, 75]])
    for call in calls(frame):
        with pytest.raises(
            ValueError, match=r"(3|2) days? after the row before, where 1 day is us"
        ):
            call()
    parts = split_at_gaps(frame)
    assert [part["x"].tolist() for part in parts] == [
        VALUES[:20].tolist(), VALUES[22:75].tolist(), VALUES[76:].tolist(),
    ]  # fmt: skip
    data = Windows(parts, 3, dtype="float64")
    assert len(data) == 17 + 50 + 1
    steps = {
        tuple(np.round(np.diff([*x, *y]), 9))
        for x, y in zip(data[:].x[..., 0], data[:].y[..., 0], strict=True)
    }
    assert steps <= {tuple(np.round(np.diff(VALUES[n : n + 4]), 9)) for n in range(77)}
    assert len(split_at_gaps([frame, frame["x"]])) == 6
    assert len(Windows(frame.to_numpy(), 3)) == 74
    f = by_api([VALUES[:, None]], [(VALUES[:, None], 64)])[0]
    late = pandas.DataFrame({"x": VALUES}, pandas.DatetimeIndex(DAYS)).drop(DAYS[:5]).drop(DAYS[20])
    np.testing.assert_array_equal(f.forecast(late), f.forecast(VALUES))  # not in its window
    assert len(split_by_time(frame)[0]) == 62
    with pytest.raises(TypeError, match="an index of dates, which tells where gaps are"):
        split_at_gaps(VALUES)


def test_an_index_with_dates_twice_at_irregular_distances_or_of_several_series(pandas):
    twice = pandas.Series(VALUES, pandas.DatetimeIndex(np.sort([*DAYS[:79], DAYS[7]])))
    with pytest.raises(ValueError, match="got 2024-02-01.* in row 8, 0 seconds after the row bef"):
        Windows(twice, 3)
    assert list(map(len, split_at_gaps(twice))) == [8, 72]
    random = np.cumsum(np.random.default_rng(1).exponential(3600, 80)).astype("m8[s]")
    irregular = pandas.Series(VALUES, pandas.DatetimeIndex(DAYS[0] + random))
    with pytest.raises(ValueError, match=r"at equal distances, got some from .*pass series.to_nu"):
        Windows(irregular, 3)
    levels = [np.repeat(["a", "b"], 40), np.tile(DAYS[:40], 2)]
    stores = pandas.DataFrame({"x": VALUES}, pandas.MultiIndex.from_arrays(levels))
    with pytest.raises(ValueError, match="Expected one series, got several by its index"):
        Windows(stores, 3)
    assert len(Windows([one for _, one in stores.groupby(level=0)], 3)) == 2 * 37
    for names in (["north", "south"], [3, 7]):
        named = pandas.Series(VALUES, np.repeat(names, 40))
        with pytest.raises(ValueError, match=r"Expected one series, got several by its index"):
            Windows(named, 3)
        assert len(Windows([one for _, one in named.groupby(level=0)], 3)) == 2 * 37
    assert len(Windows(pandas.Series(VALUES, np.repeat(range(1980, 2000), 4)), 3)) == 77  # quarters
    assert len(Windows(pandas.Series(VALUES, ["on", "off"] * 40), 3)) == 77
    missing = pandas.DatetimeIndex([*DAYS[:40], pandas.NaT, *DAYS[41:]])
    with pytest.raises(ValueError, match="in the order of time, got NaT behind"):
        Windows(pandas.Series(VALUES, missing), 3)


def test_a_column_of_dates_tells_the_times_where_the_index_does_not(pandas):
    f = by_api([VALUES[:, None]], [(VALUES[:, None], 64)])[0]
    tables = {"pandas": pandas.DataFrame}
    for name, make in (("polars", "DataFrame"), ("pyarrow", "table")):
        with contextlib.suppress(ImportError):
            tables[name] = getattr(importlib.import_module(name), make)
    dates = [datetime.datetime(2024, 1, 1) + datetime.timedelta(n) for n in range(80)]
    later = [date + datetime.timedelta(366) for date in dates[50:]]
    for make in tables.values():
        np.testing.assert_array_equal(
            f.forecast(make({"date": dates, "x": VALUES})), f.forecast(VALUES)
        )
        with pytest.raises(ValueError, match="Expected rows in the order of time"):
            f.forecast(make({"x": VALUES, "date": dates[::-1]}))
        with pytest.raises(ValueError, match="367 days after the row before, where 1 day is usual"):
            f.backtest(make({"x": VALUES, "date": dates[:50] + later}))
        with pytest.raises(ValueError, match="Expected rows in the order of time"):
            f.forecast(make({"date": list(map(str, dates[::-1])), "x": VALUES}))
        for others in (dates[:1] * 80, ["2024-05-05"] * 80, list(map(str, DAYS.repeat(24)[:80]))):
            table = make({"issued": others, "x": VALUES})  # these tell no time of a row
            np.testing.assert_array_equal(f.forecast(table), f.forecast(VALUES))
        if make.__module__ != "pyarrow.lib":
            parts = split_at_gaps(make({"x": VALUES, "date": dates[:50] + later}))
            assert [part["x"].to_numpy().tolist() for part in parts] == [
                VALUES[:50].tolist(), VALUES[50:].tolist(),
            ]  # fmt: skip


def test_working_days_and_changes_of_the_clock_are_no_gaps(pandas):
    working = pandas.bdate_range("2024-01-01", periods=80)
    assert len(Windows(pandas.Series(VALUES, working), 3)) == 77
    berlin = pandas.bdate_range("2024-01-01", periods=80, tz="Europe/Berlin")
    assert len(Windows(pandas.Series(VALUES, berlin), 3)) == 77
    hours = pandas.date_range("2024-03-30", periods=80, freq="h", tz="Europe/Berlin")
    assert len(Windows(pandas.Series(VALUES, hours), 3)) == 77
    closes = pandas.bdate_range("2024-03-20 17:30", periods=80, tz="Europe/Berlin")
    assert len(Windows(pandas.Series(VALUES, closes), 3)) == 77
    days = pandas.date_range("2024-03-20", periods=80, freq="D", tz="Europe/Berlin")
    assert len(Windows(pandas.Series(VALUES, days), 3)) == 77
    assert datetime.date(2024, 3, 31) in list(days.date)
