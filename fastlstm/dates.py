"""Times of rows: read from text in the forms that tables have, their order, gaps and continuation.

Nothing is guessed. A form is taken if every label of a column has it; days and months that could
change places (03/04/2024) are told apart by the whole column, where only one reading gives dates or
only one gives them at equal distances, or not at all.
"""

import datetime
import re
from typing import NamedTuple

import numpy as np

_ENOUGH = 12  # times by whose distances a reading is told from others
_RECENT = 12  # times that tell how far the next ones are apart
_HOLIDAYS = 5  # working days without a row that are no gap where there are no rows on weekends
_HUGE = 2**62
_WEEKENDS = 3  # that show a week of other days than Monday to Friday
_IRREGULAR = 1 / 3  # share of unusual distances from which on none is usual
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
# Each with the orders in which its numbers a, b, c can be meant, if it does not name them.
_FORMS = [
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
_FORMS = [(re.compile(form, re.IGNORECASE | re.ASCII), orders) for form, orders in _FORMS]
_YEAR_AND_MONTH = re.compile(r"(?P<y>1[6-9]\d\d|2[01]\d\d)\.(?P<m>0[1-9]|1[0-2])")


class Times(NamedTuple):
    """When each row was.

    Parameters
    ----------
    values : ndarray of shape (T,)
        datetime64, in UTC where the text tells an offset from it, unless each is at the same time
        of its day; or numbers.
    write : callable
        What makes text of such values, in the form of the text that was read.
    """

    values: np.ndarray
    write: object

    @property
    def are_dates(self):
        return self.values.dtype.kind == "M"


def read_times(labels):
    """Read the times of a column's texts; None if these are neither numbers nor dates.

    Raises
    ------
    ValueError
        If a date does not exist, or days and months cannot be told apart.
    """
    for form, orders in _FORMS:
        if matches := _all_matches(form, labels):
            found = {o: times for o in orders or [None] if (times := _dates(matches, o))}
            if not found and all(map(NUMBER.fullmatch, labels)):
                continue  # as 20230231, which is no date but a number
            return _the_one(found, matches, orders or [None])
    if not all(map(NUMBER.fullmatch, labels)):
        return None
    matches = _all_matches(_YEAR_AND_MONTH, labels)
    if matches and len({match["y"] for match in matches}) > 1:
        return _dates(matches)
    return _numbers(labels)


def looks_like_a_date(text):
    """Tell whether a text has the form of a date, and is no number."""
    if NUMBER.fullmatch(text):
        return False
    return any(form.fullmatch(text) for form, _ in _FORMS)


def same_form(text, other):
    """Tell whether two texts are dates that are written in the same form."""
    return any(form.fullmatch(text) and form.fullmatch(other) for form, _ in _FORMS)


def are_runs(values):
    """Tell whether each value stands in one run of rows, as of series below each other.

    Runs of years do not count: they are of the quarters or months of one series.
    """
    if values.dtype.kind in "iu" and 1500 <= values.min() <= values.max() <= 2200:
        return False
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    once = len(set(values[first].tolist())) == len(first) > 1
    return once and bool(np.diff(np.append(first, len(values))).min() > 1)


def breaks(values):
    """Tell where rows are not as far from the row before as they usually are.

    Returns
    -------
    rows : int64 ndarray
        The first rows behind each such place.
    usual : a distance, or None
        None if the distances are irregular: then only repeated times are such places.
    """
    steps = np.diff(values)
    zero = steps.dtype.type(0)
    later = steps[steps > zero]
    if not len(later):
        return np.flatnonzero(steps <= zero) + 1, None
    usual = np.sort(later)[len(later) // 2]
    if (week := _working_week(values)) is not None:
        days = values.astype("M8[D]")
        rest = np.busday_count(days[:-1], days[1:], week)
        return np.flatnonzero((rest > _HOLIDAYS + 1) | (steps <= zero)) + 1, usual
    off = np.abs(steps - usual) * 2 > usual
    if np.mean(off[steps > zero]) > _IRREGULAR:
        return np.flatnonzero(steps <= zero) + 1, None
    return np.flatnonzero(off) + 1, usual


def continued(values, count):
    """The next `count` of times at equal distances, by calendar months and working days too.

    None if the last ones are not at equal distances. Months may be told by their last days: then
    the days after them are alike.
    """
    if len(values) < 2:
        return None
    more = _at_equal_distances(values[-_RECENT:], np.arange(1, count + 1), _working_week(values))
    if more is None or values.dtype.kind != "M":
        return more
    return more if more[-1].astype("M8[Y]").astype(int) + 1970 <= datetime.MAXYEAR else None


def _at_equal_distances(values, after, week):
    if values.dtype.kind == "M":
        for day in np.arange(2).astype("timedelta64[D]"):
            months = (values + day).astype("datetime64[M]")
            steps, rest = np.diff(months), values + day - months
            if (steps == steps[0]).all() and steps[0].astype(int) and (rest == rest[0]).all():
                return (months[-1] + after * steps[0]).astype(values.dtype) + rest[0] - day
        if week is not None:
            days = values.astype("M8[D]")
            more = np.busday_offset(days[-1], after, weekmask=week)
            return more.astype(values.dtype) + (values - days)[-1]
    steps = np.diff(values)
    if values.dtype.kind == "f":
        equal = np.allclose(steps, steps[0], rtol=1e-6, atol=0)
    else:
        equal = (steps == steps[0]).all()
    return values[-1] + after * steps[-1] if equal else None


def span(step):
    """A distance between times in words."""
    if not isinstance(step, np.timedelta64):
        return f"{step:.12g}"
    seconds = step / np.timedelta64(1, "s")
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= length or name == "second":
            number = f"{seconds / length:.4g}"
            return f"{number} {name}" + ("" if number == "1" else "s")


def _working_week(values):
    """The days of the week that have rows, Monday first, where others have none; or None.

    These are Monday to Friday, with one weekend at least, or what several weeks show: 5 or 6 days
    in a row. Rows go from working day to working day, at the same time of the day.
    """
    if values.dtype.kind != "M" or len(values) < 2:
        return None
    days = values.astype("M8[D]")
    if len(np.unique(values - days)) > 1:
        return None
    week = np.bincount((days.astype(int) + 3) % 7, minlength=7) > 0
    if not week[5:].any():
        week, least = np.arange(7) < 5, 1
    elif 5 <= np.count_nonzero(week) < 7 and np.count_nonzero(week != np.roll(week, 1)) == 2:
        least = _WEEKENDS
    else:
        return None
    steps = np.busday_count(days[:-1], days[1:], week)
    weekends = (steps == 1) & (np.diff(days) > np.timedelta64(1, "D"))
    return week if np.count_nonzero(weekends) >= least and np.median(steps) == 1 else None


def _all_matches(form, labels):
    """The matches of all labels, or None: most columns are told by their first."""
    if not labels or not form.fullmatch(labels[0]):
        return None
    matches = [form.fullmatch(label) for label in labels]
    return None if None in matches else matches


def _dates(matches, order=None):
    """The `Times` of a form's matches, a, b and c being y, m, d in this order; None if wrong."""
    names = list(matches[0].re.groupindex)
    columns = zip(*(match.group(*names) for match in matches), strict=True)
    texts = dict(zip(names, columns, strict=True))
    for place, name in zip("abc", order or "", strict=False):
        texts[name] = texts[place]

    def numbers(name, default=0):
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
    if "w" in texts:  # week 1 has January 4 in it
        fourth = first.astype("M8[D]") + 3
        monday = fourth - (fourth.astype(int) + 3) % 7
        dates = monday + 7 * (numbers("w") - 1) + numbers("wd", 1) - 1
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
    clock = (hours * 3600 + minutes * 60 + seconds).astype("m8[s]").astype(f"m8[{unit}]")
    if any(texts.get("f", ())):
        parts = [int((text or "").ljust(digits, "0")) for text in texts["f"]]
        clock = clock + np.array(parts).astype(f"m8[{unit}]")
    values = dates.astype(f"M8[{unit}]") + clock
    zones = set(texts.get("z", [None]))
    if None in zones and len(zones) > 1:
        raise ValueError("some times have an offset from UTC, and others have none")
    offsets = {zone: _offset(zone) for zone in zones}
    if len(np.unique(clock)) == 1:  # days of a calendar, over changes of the clock too
        offsets = dict.fromkeys(zones, 0)
    away = np.array([offsets[zone] for zone in texts.get("z", [None])]).astype("m8[m]")
    return Times(values - away, _Writer(matches, texts, order, away[-1]))


def _offset(zone):
    """Minutes from UTC."""
    if zone is None or zone.upper() in ("Z", "UTC", "GMT"):
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return -minutes if zone[0] == "-" else minutes


def _the_one(found, matches, orders):
    """The times that there are in one order; ValueError if there are none, or several."""
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


def _is_regular(values):
    """Whether enough times increase at equal distances: those of a wrong reading hardly do."""
    if len(values) < _ENOUGH or not (values[1:] > values[:-1]).all():
        return False
    rows, usual = breaks(values)
    return not len(rows) and usual is not None


def _as_format(match, order):
    """The strptime format of a match whose numbers are meant in this order."""
    text, letters = match[0], dict(zip("abc", order, strict=True))
    names = {"d": "%d", "m": "%m", "H": "%I" if match["ap"] else "%H", "M": "%M", "S": "%S"}
    names |= {"f": "%f", "ap": "%p", "z": "%z"}
    for name, (start, stop) in sorted(_spans(match).items(), key=lambda item: -item[1][0]):
        letter = letters.get(name, name)
        year = "%Y" if stop - start == 4 else "%y"
        text = text[:start] + (year if letter == "y" else names[letter]) + text[stop:]
    return text


def _spans(match):
    """Where the named parts of a match are, but for separators."""
    return {name: match.span(name) for name in match.re.groupindex if match[name] and name != "s"}


class _Writer:
    """Writes times in the form of the labels that were read, by filling in one of them anew."""

    def __init__(self, matches, texts, order, offset):
        self.letters = dict(zip("abc", order or "", strict=False))
        self.offset = offset
        here = {name: set(column) - {None} for name, column in texts.items()}
        here = {name: column for name, column in here.items() if column}
        whole = (
            m for m in reversed(matches) if all(m[name] for name in here if name in m.re.groupindex)
        )
        self.model = next(whole, matches[-1])  # a label with all the parts that any has
        self.digits = max(map(len, here.get("f", ())), default=0)
        months = {text.lower() for text in here.get("mon", ())} - {"sept"}
        self.letters_of_month = None if any(len(text) > 3 for text in months) else 3
        # what is written 1 and not 01: by itself, or as the other numbers of the date are
        bare = {name for name, column in here.items() if 1 in map(len, column)}
        led = {name for name, column in here.items() if any(text[0] == "0" for text in column)}
        date = {"m", "d"} & set(here)
        self.bare = (bare | date if bare & date else bare) - led

    def __call__(self, values):
        return [self._write(value) for value in values]

    def _write(self, value):
        local = value if self.offset is None else value + self.offset
        moment = local.astype("M8[us]").item()
        text = self.model[0]
        for name, (start, stop) in sorted(_spans(self.model).items(), key=lambda i: -i[1][0]):
            part = self._part(self.letters.get(name, name), moment, local, text[start:stop])
            text = text[:start] + part + text[stop:]
        return text

    def _part(self, letter, moment, local, old):
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


def _in_case(word, old):
    return word.upper() if old.isupper() else word.lower() if old.islower() else word


def read_formatted(labels, date_format):
    """The times of labels that `datetime.strptime` reads."""
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
        moments = [m.astimezone(datetime.timezone.utc).replace(tzinfo=None) for m in moments]
    values = np.array(moments, "M8[us]")

    def write(values):
        moments = values.astype("M8[us]").tolist()
        if zone is not None:
            moments = [m.replace(tzinfo=datetime.timezone.utc).astimezone(zone) for m in moments]
        return [moment.strftime(date_format) for moment in moments]

    return Times(values, write)


def _numbers(labels):
    """The times of numbers, whole ones as such, so that none loses digits; None if one is inf."""
    try:
        values = np.array(list(map(int, labels)), np.int64)
        if values.max() >= _HUGE or values.min() <= -_HUGE:
            raise OverflowError  # the next ones might be beyond int64
    except (ValueError, OverflowError):
        values = np.array(labels, float)
        if not np.isfinite(values).all():
            return None
        plain = not any("e" in label.lower() for label in labels)
        decimals = max(len(label.partition(".")[2]) for label in labels) if plain else 17
        form = f".{decimals}f" if plain else ".12g"
        return Times(values, lambda more: [f"{value:{form}}" for value in more])
    return Times(values, lambda more: list(map(str, more.tolist())))
