"""Numbers of a report as text, short and with a dash for what is unknown."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Real
from typing import Any

DASH = "\u2013"
MINUS = "\u2212"


def finite(value: Any) -> float | None:
    """The number in a value or in an estimate {value, low, high}; None where there is none."""
    value = value.get("value") if isinstance(value, Mapping) else value
    return float(value) if isinstance(value, Real) and math.isfinite(float(value)) else None


def or_dash(value: Any) -> str:
    """The value as text."""
    return DASH if value is None or value == "" else str(value)


def _number(value: float, sign: str, largest: float) -> str:
    """As many decimals as the `largest` number of its interval asks for."""
    if largest and not 0.0005 <= largest < 1e6:
        return f"{value:{sign}.1e}".replace("e-0", "e-").replace("e+0", "e+")
    digits = 4 if 0 < largest < 0.01 else 3 if largest < 10 else 2 if largest < 100 else 1
    return f"{value:{sign}z,.{digits}f}"


def estimate_text(estimate: Any, *, percent: bool, sign: str = "") -> str:
    """`96.4 % [93.8, 98.7]`; without the interval where none is known. A `sign`: a difference."""
    ends = [finite(end) for end in estimate_ends(estimate)]
    known = [end for end in ends if end is not None]
    if ends[0] is None:
        return DASH
    largest = max(abs(end) for end in known)
    texts = [points_text(end, sign) if percent else _number(end, sign, largest) for end in known]
    unit = (" points" if sign else " %") if percent else ""
    interval = f" [{texts[1]}, {texts[2]}]" if len(texts) == 3 else ""
    text = f"{texts[0]}{unit}{interval}"
    return text.replace("-", MINUS) if sign else text


def estimate_ends(estimate: Any) -> tuple[Any, Any, Any]:
    """Value, low and high of an estimate; a plain number has no interval."""
    if not isinstance(estimate, Mapping):
        return estimate, None, None
    return estimate.get("value"), estimate.get("low"), estimate.get("high")


def points_text(value: float, sign: str = "") -> str:
    """A share in hundredths, without its unit."""
    return f"{100 * value:{sign}z.1f}"


def human(value: Any, unit: str = "", billion: str = "G") -> str:
    """12345 as `12.3 k`: three digits and a decimal prefix."""
    number = finite(value)
    if number is None:
        return DASH
    scale = ((1e12, "T"), (1e9, billion), (1e6, "M"), (1e3, "k"), (1.0, ""))
    # 0.9995: what rounds up to the next prefix is written with it
    size, prefix = next((s for s in scale if abs(number) >= 0.9995 * s[0]), scale[-1])
    return f"{number / size:.3g} {prefix}{unit}".rstrip()


def count_text(value: Any) -> str:
    """A whole number with thousands set apart."""
    number = finite(value)
    return DASH if number is None else f"{number:,.0f}"


def seconds_text(value: Any) -> str:
    """A duration in s, ms or \u00b5s."""
    number = finite(value)
    if number is None:
        return DASH
    scale = ((1.0, "s"), (1e-3, "ms"), (1e-6, "\u00b5s"))
    size, unit = next((s for s in scale if number >= 0.9995 * s[0]), scale[-1])
    return f"{number / size:.3g} {unit}"


def p_value_text(value: Any) -> str:
    """Two digits, and `< 0.001` below that."""
    number = finite(value)
    return DASH if number is None else "< 0.001" if number < 0.001 else f"{number:.2g}"


def date_text(created: Any) -> str:
    """An ISO time as UTC to the minute; anything else as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except (TypeError, ValueError):
        return or_dash(created)
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{zoned.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
