"""Durations, amounts of data and numbers of things as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`3.2 s`, `38 s`, `12 min`, `3 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def megabytes(num_bytes: float) -> str:
    """Decimal megabytes or gigabytes: `14.7 MB`."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 or num_bytes == 0 else f"{num_bytes / 1e6:.3f} MB"


def counted(num: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{num} {what}" if num == 1 else f"{num} {what}s"
