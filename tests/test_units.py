"""Durations and sizes have readable units."""

from __future__ import annotations

from fedlit.units import counted, duration, megabytes


def test_times_and_sizes_have_readable_units():
    assert [duration(value) for value in (0, 9.94, 38.4, 119, 120, 7199, 7260)] == [
        "0.0 s", "9.9 s", "38 s", "119 s", "2 min", "2 h 00 min", "2 h 01 min",
    ]  # fmt: skip
    assert [megabytes(value) for value in (0, 12, 99_999, 14_700_000, 3_200_000_000)] == [
        "0.0 MB", "0.000 MB", "0.100 MB", "14.7 MB", "3.2 GB",
    ]  # fmt: skip


def test_one_thing_is_not_many():
    assert [counted(num, "step") for num in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
