from __future__ import annotations

import math
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges import windows
from exchanges.windows import Recorder, bucket_of, merged, percentile, top_of

NOW = 1_800_000_000.0


def nearest_rank(values: list[float], percent: float) -> float:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


class TestPercentile:
    @given(
        st.lists(st.floats(min_value=1e-5, max_value=3600), min_size=1), st.sampled_from([1, 50, 95, 99, 100])
    )
    def test_is_the_nearest_rank_and_at_most_five_percent_above(
        self, values: list[float], percent: int
    ) -> None:
        found = percentile(Counter(map(bucket_of, values)), percent)

        true = nearest_rank(values, percent)
        assert found is not None
        assert true * 0.9999 <= found <= true * 1.0501

    def test_is_none_where_there_is_nothing(self) -> None:
        assert percentile({}, 50) is None

    @pytest.mark.parametrize("value", [0.0, -1.0, 1e-9])
    def test_takes_what_is_too_small_for_the_smallest(self, value: float) -> None:
        assert bucket_of(value) == 0

    def test_takes_what_is_too_large_for_the_largest(self) -> None:
        assert bucket_of(1e9) == bucket_of(4000)
        assert top_of(bucket_of(1e9)) < 3600 * 1.06


class TestMerged:
    @given(st.lists(st.lists(st.floats(min_value=0, max_value=60)), max_size=4))
    def test_is_what_one_process_would_have_counted(self, processes: list[list[float]]) -> None:
        together, apart = Recorder(), [Recorder() for _ in processes]
        for recorder, values in zip(apart, processes, strict=True):
            for value in values:
                recorder.add("x", value)
                together.add("x", value)

        now = time.time()
        assert merged([one.windows() for one in apart], now=now) == merged([together.windows()], now=now)

    def test_leaves_out_what_is_older_than_a_quarter_of_an_hour(self) -> None:
        minute = windows.minute_of(NOW)
        stored = {
            "x": {str(minute - 15): {"3": 9}, str(minute - 14): {"3": 1}, str(minute): {"3": 1, "4": 2}}
        }

        assert merged([stored, stored], now=NOW) == {"x": Counter({3: 4, 4: 4})}


class TestRecorder:
    def test_forgets_what_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [NOW]
        monkeypatch.setattr(time, "time", lambda: clock[0])
        recorder = Recorder()
        for _ in range(40):
            recorder.add("x", 0.5)
            clock[0] += 60
        recorder.add("x", 0.5)

        assert len(recorder.windows()["x"]) == 15
        assert len(recorder._counts["x"]) == 15
        clock[0] += 3600
        assert recorder.windows() == {"x": {}}
