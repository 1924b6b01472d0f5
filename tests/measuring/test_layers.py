"""A layer table's arithmetic, on times that are known."""

import msgspec
import numpy as np
import pytest

from millis.measuring.layers import LayerTable, Timed, check_table, coldness_at, halves_of, learn_residual

TOKENS = (8, 16, 32)
REST = (1.0, 1.5, 2.5)
NORMS = (0.1, 0.12, 0.2)
WHOLE = (12, 1536)


def half_ms(kind: str, units: int) -> np.ndarray:
    return np.array(TOKENS) * units / (600 if kind == "heads" else 60_000)


def network_ms(shape: list[tuple[int, int]], *, scale: float = 1.0, extra_ms: float = 0.0) -> tuple[float, ...]:
    halves = sum(half_ms("heads", heads) + half_ms("channels", channels) for heads, channels in shape)
    gone_ms = (6 - len(shape)) * np.array(NORMS)
    return tuple(float(ms) for ms in np.array(REST) - gone_ms + extra_ms + scale * halves)


@pytest.fixture
def table() -> LayerTable:
    heads = [(n, network_ms([(n, 0)] * 6)) for n in (2, 6, 12)]
    channels = [(n, network_ms([(0, n)] * 6)) for n in (64, 512, 1536)]
    return LayerTable(
        runtime="fake-int8", n_layers=6, tokens=TOKENS, rest_ms=REST, norms_ms=NORMS, extra_ms=(0.0,) * 3, scale=(1.0,) * 3,
        heads=halves_of(heads, rest_ms=REST, n_layers=6, whole_bytes=590_000),
        channels=halves_of(channels, rest_ms=REST, n_layers=6, whole_bytes=1_180_000),
    )  # fmt: skip


def test_the_time_of_a_shape_it_never_saw_is_the_sum_of_its_parts(table: LayerTable) -> None:
    shape = [(12, 1536), (4, 300), (0, 64), (7, 0), (0, 0), (1, 16)]
    for tokens, wanted in zip(TOKENS, network_ms(shape), strict=True):
        assert table.predict_ms(shape, tokens=tokens) == pytest.approx(wanted)
    assert table.predict_ms(shape, tokens=24) == pytest.approx(np.mean(network_ms(shape)[1:])), "between, on a line"


def test_the_cost_of_halves_adds_up_to_the_mean_time_over_the_texts(table: LayerTable) -> None:
    shape, lengths = [(12, 1536), (3, 200)], [8, 8, 16, 32, 20]
    cost = table.cost(lengths)
    layers_ms = sum(cost("heads", heads) + cost("channels", channels) + cost("norms", 1) for heads, channels in shape)
    wanted = np.mean([table.predict_ms(shape, tokens=tokens) for tokens in lengths])
    assert layers_ms + table.rest_mean_ms(lengths) == pytest.approx(wanted)
    assert table.cost([999])("heads", 12) == pytest.approx(half_ms("heads", 12)[-1]), "longer texts are cut there"


def test_cold_a_layer_costs_what_the_rate_says(table: LayerTable) -> None:
    norms_ms = tuple(3 * ms for ms in NORMS)
    both = msgspec.structs.replace(table, cold=msgspec.structs.replace(table, norms_ms=norms_ms, scale=(2.0,) * 3))
    warm, mixed, cold = (both.cost([16], coldness=coldness) for coldness in (0.0, 0.25, 1.0))
    assert warm("norms", 1) == pytest.approx(NORMS[1])
    assert mixed("norms", 1) == pytest.approx(1.5 * NORMS[1])
    assert cold("heads", 6) == pytest.approx(2 * warm("heads", 6))
    assert both.rest_mean_ms([16], coldness=1.0) == pytest.approx(REST[1] - 6 * 3 * NORMS[1])
    assert table.cost([16], coldness=1.0)("heads", 6) == pytest.approx(warm("heads", 6)), "nobody timed it cold"


def test_the_rarer_a_compiled_length_runs_the_colder_it_is_found() -> None:
    assert coldness_at(1e5, n_lengths=1) < 0.001
    assert coldness_at(100, n_lengths=4) == pytest.approx(0.632, abs=0.001)
    assert coldness_at(100, n_lengths=1) < coldness_at(50, n_lengths=1) < coldness_at(1, n_lengths=1) < 1.0001


def test_whole_networks_teach_what_fusion_saves(table: LayerTable) -> None:
    shapes = [[WHOLE] * 6, [(6, 512)] * 6, [(2, 64)] * 6]
    taught = learn_residual(
        table, [Timed(tuple(shape), network_ms(shape, scale=0.8, extra_ms=0.1)) for shape in shapes]
    )
    assert taught.scale == pytest.approx((0.8, 0.8, 0.8))
    assert taught.extra_ms == pytest.approx((0.1, 0.1, 0.1))
    unseen = ((3, 100),) * 6
    longer = tuple(ms / 0.9 for ms in network_ms(list(unseen), scale=0.8, extra_ms=0.1))
    checked = check_table(taught, [Timed(unseen, longer)])
    assert checked.worst_error() == pytest.approx(0.1, abs=0.001)
    assert [check.tokens for check in checked.checks] == list(TOKENS)
    told = check_table(taught, [Timed(unseen, longer), *(Timed(tuple(shape), network_ms(shape, scale=0.8, extra_ms=0.1)) for shape in shapes[1:])]).sum_checks()
    assert [(one.runtime, one.tokens, one.n) for one in told] == [("fake-int8", tokens, 3) for tokens in TOKENS]
    assert all(one.median_error < 0.001 and one.worst_error == pytest.approx(0.1, abs=0.001) for one in told)
    assert taught.sum_checks() == ()
    both = msgspec.structs.replace(checked, cold=msgspec.structs.replace(checked, runtime="fake-int8, cold"))
    assert [(one.runtime, one.tokens) for one in both.sum_checks()] == [
        (name, tokens) for name in ("fake-int8", "fake-int8, cold") for tokens in TOKENS
    ]


def test_a_larger_part_that_seemed_faster_is_taken_for_noise() -> None:
    times = halves_of([(1, (2.0,)), (2, (1.8,)), (4, (3.0,))], rest_ms=(1.0,), n_layers=2, whole_bytes=1)
    assert times.ms == ((0.0,), (0.5,), (0.5,), (1.0,))


def test_bytes_go_with_what_is_left(table: LayerTable) -> None:
    assert table.count_bytes([WHOLE] * 6) == 6 * 1_770_000
    assert table.count_bytes([(6, 0), (0, 768)]) == 295_000 + 590_000
