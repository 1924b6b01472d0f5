"""Windows of one text that run together: which, and that nobody sees it in an answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import millis
from making import make_fake_bundle
from millis.backends import backends
from millis.bundles import LatencyRow, Rung, ServingShape
from millis.bundles.together import count_next, order_windows, put_back, split
from millis.contract import Contract
from millis.errors import InvalidValue
from millis.searching.candidates import Variant, count_rows, predict_percentile_ms, scale_table
from millis.serving.prediction import Forecast

MS = 1_000_000
TABLE = (
    LatencyRow(tokens=16, p50_ms=1.0, p99_ms=1.0, n=9, rows=4, rows_ms=2.0),
    LatencyRow(tokens=32, p50_ms=2.0, p99_ms=2.0, n=9, rows=4, rows_ms=4.0),
)


@pytest.mark.parametrize("n", range(12))
def test_windows_of_like_lengths_run_together_and_come_back_in_their_own_order(n: int) -> None:
    windows = [[0] * length for length in np.random.default_rng(n).integers(3, 30, n)]
    order = order_windows([len(one) for one in windows], rows=4)
    assert sorted(order) == list(range(n))
    assert put_back([windows[place] for place in order], order=order) == windows
    lengths = [len(windows[place]) for place in order]
    together, alone = split(lengths, rows=4)
    assert (len(together), len(alone)) == divmod(n, 4)
    assert together == sorted(together), "the longest of each four, the four as alike as can be"
    steps, left = [], n
    while left:
        steps.append(count_next(left, rows=4))
        left -= steps[-1]
    assert steps == [4] * len(together) + [1] * len(alone)
    assert order_windows(lengths, rows=1) == range(n)


def count_rows_run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Count what the fake backend is given, as (rows, tokens)."""
    shapes: list[tuple[int, ...]] = []
    run = backends["fake"].run

    def counted(self: Any, batch: dict[str, NDArray[np.int64]]) -> Any:
        shapes.append(batch["input_ids"].shape)
        return run(self, batch)

    monkeypatch.setattr(backends["fake"], "run", counted)
    return shapes


def test_what_runs_together_is_warm_before_the_first_request_and_stays_so_beside_what_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = millis.load(make_fake_bundle(tmp_path, task="rerank", buckets=(16, 32), rows=3).path)
    shapes = count_rows_run(monkeypatch)
    model.warm()
    assert set(shapes) == {(1, 16), (1, 32), (3, 16), (3, 32)}
    model({"query": "who wrote", "documents": ["maria", "garcia", "lisbon", "maria garcia wrote from lisbon " * 4]})
    shapes.clear()
    for _ in range(50):
        model.keep_warm()
    assert shapes.count((3, 16)) == 10, "of the example and the last four windows in turn, for as long as it is idle"
    assert shapes.count((1, 32)) == 10


@pytest.mark.parametrize("task", ["rerank", "qa", "ner"])
def test_answers_are_those_of_windows_alone(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake backend counts what it is given."""
    asked: Any = {
        "rerank": {"query": "who wrote", "documents": ["maria garcia wrote " * n for n in (5, 1, 8, 2, 1, 7, 3)]},
        "qa": {"question": "who wrote", "context": "maria garcia wrote from lisbon and " * 40},
        "ner": "maria garcia wrote from lisbon and " * 40,
    }[task]
    alone, together = (
        millis.load(make_fake_bundle(tmp_path / str(rows), task=task, buckets=(16, 32), rows=rows).path) for rows in (1, 3)
    )
    shapes = count_rows_run(monkeypatch)
    answer = together(asked)
    sizes = {rows for rows, _ in shapes}
    assert sizes <= {1, 3}
    assert 3 in sizes
    assert answer == alone(asked)


def test_a_forecast_knows_what_windows_together_take() -> None:
    rung = Rung(name="r", backend="openvino", precision="int8", folder="r", buckets=(16, 32), rows=4, latency=TABLE)
    forecast = Forecast([rung], warm_ns=[[]])
    assert forecast.text_ns(0, [10] * 4) == 2 * MS
    assert forecast.text_ns(0, [10] * 8 + [20]) == (2 + 2 + 2) * MS
    assert forecast.text_ns(0, [10, 10, 10, 20, 30]) == (4 + 2) * MS, "each padded to the longest"
    assert forecast.text_ns(0, [10] * 3) == 3 * MS
    forecast.tokens_per_byte = 1.0
    assert forecast.body_ns(0, 32) == 2 * MS
    assert forecast.body_ns(0, 20 * 32) == 5 * 4 * MS, "long bodies are many windows"
    for _ in range(200):
        forecast.observe_run(0, 16, ns=4 * MS, is_together=True)
    assert forecast.text_ns(0, [10] * 4) == pytest.approx(4 * MS, rel=0.01)
    untimed = Forecast([Rung(name="r", backend="fake", precision="fp32", folder="r", rows=4)], warm_ns=[[(16, 1.0 * MS)]])
    assert untimed.text_ns(0, [10] * 4) == 4 * MS


def predict(requests: Sequence[Sequence[int]], table: Sequence[LatencyRow]) -> float:
    shape = ServingShape(workers=1, threads=0)
    return predict_percentile_ms(table, requests=requests, rate_per_s=0.1, shape=shape, percentile=50)


def test_the_search_predicts_requests_by_what_runs_together() -> None:
    nothing = predict([[10]], scale_table(TABLE, 1e-9))
    assert predict([[10]] * 9, TABLE) - nothing == pytest.approx(1, rel=0.02)
    assert predict([[10] * 4, [10, 10, 10, 9]], TABLE) - nothing == pytest.approx(2, rel=0.02)
    assert predict([[20, 10, 10, 10, 10]], TABLE) - nothing == pytest.approx(2 + 2, rel=0.02), "by length, the longest alone"
    assert predict([[10] * 4], scale_table(TABLE, 3.0)) - nothing == pytest.approx(6, rel=0.02)


def test_windows_run_together_where_most_texts_have_so_many_and_the_runtime_gains_by_it() -> None:
    openvino = Variant(backend="openvino", precision="int8", is_bucketed=True)
    many, few = [[10] * 20, [10] * 20, [10]], [[10] * 20, [10], [10] * 3]
    onnxruntime = Variant(backend="onnxruntime", precision="int8", is_bucketed=False)
    assert count_rows(openvino, requests=many, contract=None) == 4
    assert count_rows(openvino, requests=many, contract=Contract(p99="5 ms", rate=50)) == 4
    assert count_rows(openvino, requests=few, contract=None) == 1
    assert count_rows(openvino, requests=many, contract=Contract(p99="5 ms", rate=50, device="gpu")) == 1
    assert count_rows(openvino, requests=many, contract=Contract(p99="5 ms", rate=50, memory_mb=500)) == 1, "it costs memory"
    assert count_rows(onnxruntime, requests=many, contract=None) == 1


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(InvalidValue, match="rows 0"):
        millis.backends.BackendSettings(rows=0)
