"""Times in text: reading them in the forms that tables have, and writing others in the same form.

The texts of a column are its labels. Nothing is guessed: a form is taken only if every label has
it. Days and months that could be exchanged (03/04/2024) are told apart by the whole column: one
reading is taken if the other gives no dates, or if only this one gives equal distances. Otherwise
the labels are refused.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .times import breaks, continued

_ENOUGH = 12  # this many times at equal distances make one reading right and others wrong
_HUGE = 2**62  # numbers from here on are floats: what follows them might not fit int64
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_MONTH = rf"(?P<mon>{'|'.join(_MONTHS)}|{'|'.join(m[:3] for m in _MONTHS)}|sept)\.?"
_DAY_OF_WEEK = rf"((?P<dow>{'|'.join(_DAYS)}|{'|'.join(d[:3] for d in _DAYS)})\.?,? +)?"
_CLOCK = (
    r"((?:[T ]|,? +)(?P<H>\d{1,2}):(?P<M>\d\d)(:(?P<S>\d\d)([.,](?P<f>\d{1,9}))?)?"
    r"( ?(?P<ap>[ap]\.?m\.?))?( ?(?P<z>Z|UTC|GMT|[+-]\d\d(:?\d\d)?))?)?"
)
_DAY = r"(?P<d>\d{1,2})"
# Forms, some with numbers a, b, c, and the orders of year, month and day that these can have.
_TEXTS_OF_FORMS: list[tuple[str, list[str] | None]] = [
    (r"(?P<y>\d{4})(?P<s>[-/.])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})" + _CLOCK, None),
    (r"(?P<y>\d{4})[-/](?P<m>\d{1,2})", None),
    (r"(?P<y>\d{4})[- /]?Q(?P<q>[1-4])", None),
    (r"Q(?P<q>[1-4])[- /]?(?P<y>\d{4})", None),
    (r"(?P<q>[1-4])[- ]?Q[- ]?(?P<y>\d{4})", None),
    (r"(?P<y>\d{4})-?W(?P<w>\d\d)(-?(?P<wd>[1-7]))?", None),
    (r"(?P<m>\d{1,2})[-/](?P<y>\d{4})", None),
    (r"(?P<a>\d{1,2})\.(?P<b>\d{1,2})\.(?P<c>\d{4}|\d\d)" + _CLOCK, ["dmy"]),
    (r"(?P<a>\d{1,2})(?P<s>[-/])(?P<b>\d{1,2})(?P=s)(?P<c>\d{4})" + _CLOCK, ["dmy", "mdy"]),
    (r"(?P<a>\d\d?)(?P<s>[-/])(?P<b>\d\d?)(?P=s)(?P<c>\d\d)" + _CLOCK, ["dmy", "mdy", "ymd"]),
    (_DAY_OF_WEEK + _MONTH + " +" + _DAY + r",? +(?P<y>\d{4})" + _CLOCK, None),
    (_DAY_OF_WEEK + _DAY + r"(?:-|\.? )" + _MONTH + r"(?:-|,? )(?P<y>\d{4}|\d\d)" + _CLOCK, None),
    (r"(?P<y>\d{4})[- ]" + _MONTH + r"[- ]" + _DAY + _CLOCK, None),
    (_MONTH + r"[- ](?P<y>\d{4})", None),
    (
        _DAY_OF_WEEK
        + _MONTH
        + r" +(?P<d>\d{1,2}) (?P<H>\d\d):(?P<M>\d\d):(?P<S>\d\d) (?P<y>\d{4})",
        None,
    ),
    (r"(?P<y>(?:1[89]|2[01])\d\d)(?P<m>0[1-9]|1[0-2])", None),
    (
        r"(?P<y>(?:1[89]|2[01])\d\d)(?P<m>0[1-9]|1[0-2])(?P<d>[0-3]\d)"
        r"([T ]?(?P<H>[01]\d|2[0-3])((?P<M>[0-5]\d)(?P<S>[0-5]\d)?)?(?P<z>Z)?)?",
        None,
    ),
]
_YEAR_AND_MONTH = r"(?P<y>1[6-9]\d\d|2[01]\d\d)\.(?P<m>0[1-9]|1[0-2])"

_Form = re.Pattern[str]
_Matches = Sequence["re.Match[str]"]


class Times(NamedTuple):
    """The times of rows, and how they were written.

    Parameters
    ----------
    values : ndarray of shape (T,)
        datetime64 or numbers. Where the text gives offsets from UTC, the dates are in UTC, unless
        all are at the same time of the day.
    write : callable
        It returns the labels of other values, in the form of those that were read.
    """

    values: NDArray[Any]
    write: Callable[[NDArray[Any]], list[str]]

    @property
    def are_dates(self) -> bool:
        """Whether the values are dates, not numbers."""
        return bool(self.values.dtype.kind == "M")


def read_times(labels: Sequence[str]) -> Times | None:
    """Read the times of a column; None if its labels are neither numbers nor dates.

    Raises
    ------
    ValueError
        If a date does not exist, or days and months cannot be told apart.
    """
    for form, orders in _forms():
        if matches := _all_matches(form, labels):
            possible = orders or [""]
            found = {o: times for o in possible if (times := _dates(matches, o))}
            if not found and all(map(NUMBER.fullmatch, labels)):
                continue  # as 20230231, which is a number and no date
            return _the_one(found, matches, possible)
    if not all(map(NUMBER.fullmatch, labels)):
        return None
    matches = _all_matches(re.compile(_YEAR_AND_MONTH), labels)
    if matches and len({match["y"] for match in matches}) > 1:
        return _dates(matches)
    return _numbers(labels)


def read_formatted(labels: Sequence[str], date_format: str) -> Times:
    """Read the times of labels in a format of `datetime.strptime`.

    Raises
    ------
    ValueError
        If a label is not of the format, or only some have an offset from UTC.
    """
    moments = []
    for label in labels:
        try:
            moments.append(datetime.datetime.strptime(label, date_format))
        except (ValueError, re.error) as error:
            raise ValueError(
                f"{label!r} is not of the form --date-format {date_format!r}"
            ) from error
    zones = {moment.tzinfo is None for moment in moments}
    if len(zones) > 1:
        raise ValueError("some times have an offset from UTC, and others have none")
    zone = moments[-1].tzinfo
    if zone is not None:
        moments = [_in_utc(moment, label) for moment, label in zip(moments, labels, strict=True)]
    values = np.array(moments, "M8[us]")

    def write(values: NDArray[Any]) -> list[str]:
        moments = values.astype("M8[us]").tolist()
        if zone is not None:
            moments = [m.replace(tzinfo=datetime.timezone.utc).astimezone(zone) for m in moments]
        return [moment.strftime(date_format) for moment in moments]

    return Times(values, write)


def _in_utc(moment: datetime.datetime, label: str) -> datetime.datetime:
    """Return a moment that has an offset as one without, in UTC."""
    try:
        return moment.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    except OverflowError:
        raise ValueError(f"{label!r} is before year 1 or behind year 9999 in UTC") from None


def looks_like_a_date(text: str) -> bool:
    """Tell whether a text has the form of a date, and is no number."""
    if NUMBER.fullmatch(text):
        return False
    return any(form.fullmatch(text) for form, _ in _forms())


def same_form(text: str, other: str) -> bool:
    """Tell whether two texts are dates that are written in the same form."""
    return any(form.fullmatch(text) and form.fullmatch(other) for form, _ in _forms())


@functools.cache
def _forms() -> list[tuple[_Form, list[str] | None]]:
    """Return the forms that labels can have, compiled when the first label is read."""
    return [(re.compile(f, re.IGNORECASE | re.ASCII), orders) for f, orders in _TEXTS_OF_FORMS]


def _all_matches(form: _Form, labels: Sequence[str]) -> _Matches | None:
    """Return the matches of all labels, or None if one does not match."""
    if not labels or not form.fullmatch(labels[0]):  # the first one excludes most forms
        return None
    matches = [match for label in labels if (match := form.fullmatch(label))]
    return matches if len(matches) == len(labels) else None


def _dates(matches: _Matches, order: str = "") -> Times | None:
    """Return the times of a form's matches, or None if they are no dates.

    `order` says which of the numbers a, b, c are y, m and d: "dmy", say.
    """
    names = list(matches[0].re.groupindex)
    columns = zip(*(match.group(*names) for match in matches), strict=True)
    texts = dict(zip(names, columns, strict=True))
    for place, name in zip("abc", order, strict=False):
        texts[name] = texts[place]

    def numbers(name: str, default: int = 0) -> NDArray[np.int64]:
        """Return the numbers of a part of the form, and a default where it is missing."""
        if name not in texts:
            return np.full(len(matches), default)
        return np.array([default if text is None else int(text) for text in texts[name]])

    years, days = numbers("y"), numbers("d", 1)
    short = np.array(list(map(len, texts["y"]))) == 2
    years = np.where(short, years + np.where(years < 69, 2000, 1900), years)
    if "mon" in texts:
        short_names = [name[:3].lower() for name in _MONTHS]
        months = np.array([short_names.index(text[:3].lower()) + 1 for text in texts["mon"]])
    elif "q" in texts:
        months = numbers("q") * 3 - 2
    else:
        months = numbers("m", 1)
    if not ((1 <= years) & (1 <= months) & (months <= 12) & (1 <= days) & (days <= 31)).all():
        return None
    first = ((years - 1970) * 12 + months - 1).astype("M8[M]")
    dates = first.astype("M8[D]") + (days - 1)
    if "w" in texts:  # January 4 is in week 1
        fourth = first.astype("M8[D]") + 3
        monday = fourth - (fourth.astype(int) + 3) % 7 + 7 * (numbers("w") - 1)
        if ((monday + 3).astype("M8[Y]").astype(int) + 1970 != years).any():
            return None  # the year that a Thursday is in has its week
        dates = monday + numbers("wd", 1) - 1
    elif not (dates.astype("M8[M]") == first).all():
        return None
    if not any(texts.get("H", ())):
        return Times(dates, _Writer(matches, texts, order, None))
    hours, minutes, seconds = numbers("H"), numbers("M"), numbers("S")
    if any(texts.get("ap", ())):
        halves = np.array([(text or "-")[0].lower() for text in texts["ap"]])
        hours = np.where(halves == "-", hours, hours % 12 + 12 * (halves == "p"))
    if not ((hours < 24) & (minutes < 60) & (seconds < 60)).all():
        return None
    digits = max((len(text or "") for text in texts.get("f", ())), default=0)
    unit, digits = ("ns", 9) if digits > 6 else ("us", 6)
    if unit == "ns" and not ((1678 <= years) & (years <= 2261)).all():
        return None  # nanoseconds of these years alone fit 64 bits
    clock = (hours * 3600 + minutes * 60 + seconds).astype("m8[s]").astype(f"m8[{unit}]")
    if any(texts.get("f", ())):
        parts = [int((text or "").ljust(digits, "0")) for text in texts["f"]]
        clock = clock + np.array(parts).astype(f"m8[{unit}]")
    values = dates.astype(f"M8[{unit}]") + clock
    zones = set(texts.get("z", [None]))
    if None in zones and len(zones) > 1:
        raise ValueError("some times have an offset from UTC, and others have none")
    offsets = {zone: _offset(zone) for zone in zones}
    if len(np.unique(clock)) == 1:  # days of a calendar, whatever the offset is in summer
        offsets = dict.fromkeys(zones, 0)
    away = np.array([offsets[zone] for zone in texts.get("z", [None])]).astype("m8[m]")
    return Times(values - away, _Writer(matches, texts, order, away[-1]))


def _offset(zone: str | None) -> int:
    """Return the minutes from UTC."""
    if zone is None or zone.upper() in ("Z", "UTC", "GMT"):
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return -minutes if zone[0] == "-" else minutes


def _the_one(found: Mapping[str, Times], matches: _Matches, orders: Sequence[str]) -> Times:
    """Return the times that one order gives; raise ValueError if no order does, or several do.

    `found` has the times of those `orders` that give any.
    """
    if not found:
        for match in matches:
            if not any(_dates([match], order) for order in orders):
                raise ValueError(f"Day out of range in {match[0]!r}")
        raise ValueError("days come before months in some places, and after them in others")
    regular = [times for times in found.values() if _is_regular(times.values)]
    first, *others = regular if len(regular) == 1 else found.values()
    if any((times.values != first.values).any() for times in others):
        formats = " or ".join(f"--date-format {_as_format(matches[0], o)!r}" for o in found)
        raise ValueError(
            f"days and months cannot be told apart, as in {matches[0][0]!r}: give {formats}"
        )
    return first


def _is_regular(values: NDArray[Any]) -> bool:
    """Tell whether enough times increase at equal distances: a wrong reading hardly has such."""
    if len(values) < _ENOUGH or not (values[1:] > values[:-1]).all():
        return False
    rows, usual = breaks(values)
    if len(rows) or usual is None:
        return False
    steps = np.sort(np.diff(values))
    few = len(steps) // 10  # such as those over a change of clocks
    return bool(steps[-1 - few] * 4 <= steps[few] * 5) or continued(values, 1) is not None


def _as_format(match: re.Match[str], order: str) -> str:
    """Return the strptime format of a match whose numbers are in this order."""
    text, letters = match[0], dict(zip("abc", order, strict=True))
    names = {"d": "%d", "m": "%m", "H": "%I" if match["ap"] else "%H", "M": "%M", "S": "%S"}
    names |= {"f": "%f", "ap": "%p", "z": "%z"}
    for name, (start, stop) in sorted(_spans(match).items(), key=lambda item: -item[1][0]):
        letter = letters.get(name, name)
        year = "%Y" if stop - start == 4 else "%y"
        text = text[:start] + (year if letter == "y" else names[letter]) + text[stop:]
    return text


def _spans(match: re.Match[str]) -> dict[str, tuple[int, int]]:
    """Return where the named parts of a match are, without separators."""
    return {name: match.span(name) for name in match.re.groupindex if match[name] and name != "s"}


class _Writer:
    """Writes times in the form of the labels that were read: one of them gets new numbers.

    Parameters
    ----------
    matches : list of matches
        Those of the labels.
    texts : dict of str -> list of str or None
        The parts of the labels by their names.
    order : str
        Which of the numbers a, b, c are y, m and d.
    offset : timedelta64 or None
        The distance from UTC; None for dates without a clock.
    """

    def __init__(
        self,
        matches: _Matches,
        texts: Mapping[str, Iterable[str | None]],
        order: str,
        offset: np.timedelta64 | None,
    ) -> None:
        self.letters = dict(zip("abc", order, strict=False))
        self.offset = offset
        present = {name: set(filter(None, column)) for name, column in texts.items()}
        here = {name: column for name, column in present.items() if column}
        whole = (
            m for m in reversed(matches) if all(m[name] for name in here if name in m.re.groupindex)
        )
        self.model = next(whole, matches[-1])  # the last label with every part that any one has
        self.digits = max(map(len, here.get("f", ())), default=0)
        months = {text.lower() for text in here.get("mon", ())} - {"sept"}
        self.letters_of_month = None if any(len(text) > 3 for text in months) else 3
        # Parts are written 1 and not 01 if a label that was read has them so, or has so another
        # part of the date.
        bare = {name for name, column in here.items() if 1 in map(len, column)}
        led = {name for name, column in here.items() if any(text[0] == "0" for text in column)}
        date = {"m", "d"} & set(here)
        self.bare = (bare | date if bare & date else bare) - led

    def __call__(self, values: NDArray[Any]) -> list[str]:
        return [self._write(value) for value in values]

    def _write(self, value: np.datetime64) -> str:
        local = value if self.offset is None else value + self.offset
        moment = local.astype("M8[us]").item()
        text = self.model[0]
        for name, (start, stop) in sorted(_spans(self.model).items(), key=lambda i: -i[1][0]):
            part = self._part(self.letters.get(name, name), moment, local, text[start:stop])
            text = text[:start] + part + text[stop:]
        return text

    def _part(self, letter: str, moment: datetime.datetime, local: np.datetime64, old: str) -> str:
        """Return the text of one part, in place of the `old` one."""
        twelve = "ap" in self.model.re.groupindex and self.model["ap"]
        numbers = {
            "d": moment.day, "m": moment.month, "q": (moment.month + 2) // 3, "M": moment.minute,
            "H": (moment.hour - 1) % 12 + 1 if twelve else moment.hour, "S": moment.second,
            "w": moment.isocalendar()[1], "wd": moment.isoweekday(),
        }  # fmt: skip
        if letter == "y":
            year = moment.isocalendar()[0] if "w" in self.model.re.groupindex else moment.year
            return f"{year:04d}"[-len(old) :]
        if letter == "f":
            part = int((local - local.astype("M8[s]")).astype("m8[ns]").astype(int))
            return f"{part:09d}"[: self.digits]
        if letter == "mon":
            return _in_case(_MONTHS[moment.month - 1][: self.letters_of_month], old)
        if letter == "dow":
            return _in_case(_DAYS[moment.weekday()][: 3 if len(old) == 3 else None], old)
        if letter == "ap":
            half = "pm" if moment.hour >= 12 else "am"
            return _in_case(half if len(old) == 2 else f"{half[0]}.m.", old)
        if letter == "z":
            return old
        number = str(numbers[letter])
        return number if letter in self.bare or letter == "q" else number.zfill(max(2, len(old)))


def _in_case(word: str, old: str) -> str:
    """Return a word in upper or lower case, as the old one is."""
    return word.upper() if old.isupper() else word.lower() if old.islower() else word


def _numbers(labels: Sequence[str]) -> Times | None:
    """Return numbers as times, or None if one is infinite.

    Whole numbers become integers, so that they lose no digits.
    """
    values: NDArray[Any]
    try:
        values = np.array(list(map(int, labels)), np.int64)
        if values.max() >= _HUGE or values.min() <= -_HUGE:
            raise OverflowError
    except (ValueError, OverflowError):
        values = np.array(labels, float)
        if not np.isfinite(values).all():
            return None
        plain = not any("e" in label.lower() for label in labels)
        decimals = max(len(label.partition(".")[2]) for label in labels) if plain else 17
        form = f".{decimals}f" if plain else ".12g"
        return Times(values, lambda more: [f"{value:{form}}" for value in more])
    return Times(values, lambda more: list(map(str, more.tolist())))
