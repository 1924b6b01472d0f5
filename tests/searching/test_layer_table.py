"""A layer table measured on a small base, in a real runtime."""

from pathlib import Path

import pytest

from fitting import make_base
from millis.errors import InvalidValue
from millis.measuring.layers import Check, HalfTimes, LayerTable
from millis.searching import layers
from millis.searching.layers import find_table

pytestmark = pytest.mark.slow


def test_a_table_is_measured_once_and_checked_on_ten_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layers, "_TRUSTED", float("inf"))  # on a busy machine too
    base = make_base(tmp_path / "base")
    table = find_table(base, runtime="onnxruntime-int8", tokens=(16, 64), is_static=False)
    assert len({check.shape for check in table.checks}) == 10
    assert table.heads.units == (0, 1, 2)
    assert table.channels.units[-1] == 128
    assert len(table.norms_ms) == 2
    assert all(0 <= ms < rest / 2 for ms, rest in zip(table.norms_ms, table.rest_ms, strict=True))
    assert table.predict_ms([(2, 128)], tokens=64) < table.predict_ms([(2, 128)] * 2, tokens=64)
    whole, half = [(2, 128)] * 2, [(1, 64)] * 2
    assert table.predict_ms(whole, tokens=16) < table.predict_ms(whole, tokens=64)
    assert table.predict_ms([(0, 0)] * 2, tokens=64) <= table.predict_ms(half, tokens=64)
    assert table.predict_ms(half, tokens=64) <= table.predict_ms(whole, tokens=64)
    assert table.cold is not None
    assert table.cold.runtime == "onnxruntime-int8, cold"
    assert len(table.cold.checks) == 20
    assert sum(table.cold.rest_ms) > 0
    monkeypatch.setattr(layers, "_measure", None)  # found again, it is not measured
    assert find_table(base, runtime="onnxruntime-int8", tokens=(16, 64), is_static=False) == table


def test_a_table_that_its_own_checks_refute_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLIS_CACHE", str(tmp_path / "cache"))
    base, measured = make_base(tmp_path / "base"), []

    def find(off: float) -> LayerTable:
        def measure(*_: object, **__: object) -> LayerTable:
            measured.append(off)
            checks = tuple(Check(shape=(), tokens=16, predicted_ms=1 + one, measured_ms=1.0) for one in (0.0, off, -off))
            half = HalfTimes(units=(0, 2), ms=((0.0,), (1.0,)), whole_bytes=1)
            return LayerTable(
                runtime="onnxruntime-int8", n_layers=2, tokens=(16,), rest_ms=(1.0,), norms_ms=(0.0,), heads=half,
                channels=half, extra_ms=(0.0,), scale=(1.0,), checks=checks,
            )  # fmt: skip

        monkeypatch.setattr(layers, "_measure", measure)
        return find_table(base, runtime="onnxruntime-int8", tokens=(16,), is_static=False)

    assert find(0.3).median_error() == pytest.approx(0.3)
    assert "off by 30 % in the middle: it is not kept" in capsys.readouterr().err
    find(0.05)
    assert find(0.4).median_error() == pytest.approx(0.05), "the one that was right is found again"
    assert measured == [0.3, 0.05]


def test_a_runtime_without_a_way_to_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="openvino-int8"):
        find_table(make_base(tmp_path / "base"), runtime="fake-int8", tokens=(16,), is_static=False)
