"""Quantities as people read them."""

from __future__ import annotations

import pytest

from nanotron_zagreus.units import human_bytes, human_count, human_duration


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (human_count(437_760_960), "438M"),
        (human_count(999_999), "1M"),
        (human_count(0), "0"),
        (human_count(2.097152e12), "2.1T"),
        (human_count(5.25e18), "5,250Q"),
        (human_bytes(6_128_653_440), "6.13 GB"),
        (human_duration(38), "38 s"),
        (human_duration(59.7), "1 min"),
        (human_duration(90_061), "1 d 1 h"),
        (human_duration(3600), "1 h"),
        (human_duration(0), "0 s"),
    ],
)
def test_quantities_are_written_for_people(text: str, written: str) -> None:
    assert text == written
