"""Durations and bytes in words."""

import pytest

from convflow.units import bytes_of, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.97, "9 s"),
        (45.2, "45 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "59 min 59 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86399, "23 h 59 min"),
        (86400 + 3600, "1 day 1 h"),
        (13658.3 * 60, "9 days 11 h"),
        (2000 * 86400, "2,000 days"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0.0 kB"),
        (3_240, "3.2 kB"),
        (999_499, "999 kB"),
        (999_999, "1.0 MB"),
        (1.2e9, "1.2 GB"),
        (210e9, "210 GB"),
        (5e15, "5,000 TB"),
    ],
)
def test_bytes_are_those_of_disks(count, words):
    assert bytes_of(count) == words
