"""Numbers as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Callable

from scripts.stats import PairedDifference, Spread

NONE = "-"


def number(value: float | None, digits: int = 3) -> str:
    """Such as 0.512; "-" where there is none."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.{digits}f}"


def share(value: float | None, digits: int = 0) -> str:
    """Such as 51%."""
    return NONE if value is None or math.isnan(value) else f"{value:.{digits}%}"


def spread(value: Spread | None, digits: int = 3) -> str:
    """Such as 0.512 ± 0.014."""
    if value is None:
        return NONE
    return number(value.mean, digits) + (f" ± {value.deviation:.{digits}f}" if value.deviation is not None else "")


def difference(value: PairedDifference | None, digits: int = 3) -> str:
    """Such as +0.014 (-0.003 to +0.031)."""
    if value is None:
        return NONE
    if value.interval is None:
        return f"{value.mean:+.{digits}f} (one pair)"
    low, high = value.interval
    return f"{value.mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def whole(value: float) -> str:
    """Such as 1,020; never -0."""
    return f"{round(value):,}"


def interval(value: PairedDifference, show: Callable[[float], str]) -> str:
    """Such as 10 (-7 to 27), each number as `show` writes it; the first alone where there is one pair."""
    ends = "" if value.interval is None else f" ({' to '.join(show(end) for end in value.interval)})"
    return f"{show(value.mean)}{ends}"


def clearness(value: PairedDifference) -> str:
    """Whether a difference may be chance."""
    if value.interval is None:
        return "one seed, so that nothing is said about chance"
    return "clear of zero" if value.clear_of_zero else "not clear of zero"


def money(value: float) -> str:
    """Such as $1,020, cents only below ten dollars."""
    return f"{'-' if value < 0 else ''}${abs(value):,.{0 if abs(value) >= 10 else 2}f}"


def many(count: int, noun: str) -> str:
    """Such as 1 seed, 3 seeds."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
