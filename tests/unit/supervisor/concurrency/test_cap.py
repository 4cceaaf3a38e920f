"""The cap stays within its bounds, and reports each of its moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from supervisor.concurrency.cap import Cap
from supervisor.concurrency.sample import Sample
from supervisor.states import CAP_REASONS

SAMPLES = st.builds(
    Sample,
    at=st.floats(0.05, 60),  # since the one before
    cpu_percent=st.floats(0, 100),
    memory_percent=st.floats(0, 100),
    in_flight=st.integers(0, 400),
    is_full=st.booleans(),
    tokens_per_s=st.floats(0, 1e5),
    lag_s=st.floats(0, 300),
)


@given(ceiling=st.integers(1, 300), samples=st.lists(SAMPLES, max_size=200))
def test_whatever_is_read_the_cap_stays_between_one_and_the_ceiling(ceiling: int, samples: Sequence[Sample]) -> None:
    cap, at = Cap(ceiling, cpu_high=95, memory_high=90), 0.0
    for sample in samples:
        at += sample.at
        before, change = cap.value, cap.observe(replace(sample, at=at))
        assert 1 <= cap.value <= ceiling
        assert (change is None) == (cap.value == before)
        if change:
            assert (change.old, change.new) == (before, cap.value)
            assert change.code in CAP_REASONS
