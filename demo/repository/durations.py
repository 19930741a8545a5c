"""Durations as people write them: "1h30m", "45s", "2d 4h"."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+)\s*([smhd])")


def parse(text: str) -> int:
    """The duration in seconds. Raises ValueError for anything that is not a whole duration."""
    match = _PART.match(text.strip())
    if match is None:
        raise ValueError(f"not a duration: {text!r}")
    number, unit = match.groups()
    return int(number) * _UNITS[unit]


def render(seconds: int) -> str:
    """The shortest text that parse() reads back."""
    parts = []
    for unit, size in sorted(_UNITS.items(), key=lambda item: -item[1]):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
