"""How numbers are written: as many digits as the data supports, and a dash where there is none."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

ABSENT = "—"


def decimals(low: float, high: float) -> int:
    """Decimals that an interval supports, at most 4.

    Half its width keeps one significant digit, or two where the first is a 1.
    """
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return 4
    exponent = math.floor(math.log10(half))
    # The small allowance keeps a half width of 0.2 from being taken for 0.19999.
    leading = math.floor(half / 10.0**exponent + 1e-9)
    return min(4, max(0, (1 if leading == 1 else 0) - exponent))


def significant(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, without an exponent."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    # 9.996 becomes 10.0, which has a digit more before the point.
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, places)}f}"


def measured(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval, ``1.234 [1.230, 1.241]``; three significant digits where there is none."""
    if value is None:
        return ABSENT
    if low is None or high is None:
        return significant(value)
    places = decimals(low, high)
    return f"{value:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def middle(value: float | None, low: float | None, high: float | None) -> str:
    """The value alone, to the digits that its interval supports."""
    return measured(value, low, high).partition(" ")[0]


def count(value: float | None) -> str:
    """A count with an SI prefix, ``1.23 M``."""
    if value is None:
        return ABSENT
    for limit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{significant(value / limit)} {prefix}"
    return f"{value:.0f}"


def percent(value: float | None, images: int | None = None) -> str:
    """An accuracy in percent: one decimal, two where the set has the images to support them."""
    if value is None:
        return ABSENT
    return f"{value:.{2 if images is not None and images >= 5000 else 1}f}"


def duration(seconds: float | None) -> str:
    """Wall time in the unit that suits it."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{significant(seconds, 2)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def shown(value: Any) -> str:
    """A stored value as text; a dash where it is missing."""
    return ABSENT if value is None or value is pd.NA or value != value else str(value)


def number_word(n: int, singular: str, plural: str | None = None) -> str:
    """``1 net``, ``2 nets``."""
    return f"{n} {singular if n == 1 else plural or singular + 's'}"
