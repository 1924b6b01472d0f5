"""Pruning removes what masking would silence, fits the rest again, and spends a budget exactly."""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.tiny import draw_windows
from making import make_tokenizer
from millis.backends import BackendSettings
from millis.backends.encoder import find_parts, keep_layers, layers_of, read_origins, read_shape
from millis.compressing.halves import refit, skipped
from millis.compressing.prune import Option, choose, measure_curves, measure_importance, prune
from millis.errors import InvalidValue
from millis.models.taggers import Tagger, build_tagger, load_tagger, save_tagger
from millis.tasks.task import Head, Window
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow
LABELS = ("O", "B-ORG", "I-ORG", "B-PER", "I-PER")


def make_tagger(folder: Path, kind: str = "bert") -> Tagger:
    return build_tagger(write_base(folder, kind), head=Head(LABELS), seed=3).eval()


def make_windows(n: int) -> list[Window]:
    return [Window(ids=ids, targets=np.where(ids % 3 > 0, 0, -100)) for ids in draw_windows(n, seed=4)]


def run(tagger: Tagger) -> torch.Tensor:
    ids = torch.from_numpy(np.stack([draw[:4] for draw in draw_windows(6, seed=8)]))
    with torch.inference_mode():
        return tagger(ids, torch.ones_like(ids))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("n_kept", [0, 1])
def test_removing_equals_masking(kind: str, n_kept: int, tmp_path: Path) -> None:
    tagger = make_tagger(tmp_path, kind)
    for place in range(len(find_parts(tagger.network))):
        masked, removed = copy.deepcopy(tagger), copy.deepcopy(tagger)
        part = find_parts(masked.network)[place]
        kept = [part.n_units - 1 - i for i in range(n_kept)]
        with torch.no_grad():
            for unit in set(range(part.n_units)) - set(kept):
                part.out.weight[:, unit * part.unit : (unit + 1) * part.unit] = 0
        find_parts(removed.network)[place].keep(kept)
        assert find_parts(removed.network)[place].n_units == n_kept
        torch.testing.assert_close(run(removed), run(masked), atol=1e-5, rtol=1e-5)
        n_weights = [sum(weights.numel() for weights in one.parameters()) for one in (removed, masked)]
        assert n_weights[0] < n_weights[1], "the tensors really become smaller"


@pytest.mark.parametrize("kind", TYPES)
def test_a_layer_that_is_gone_is_one_that_is_passed_by(kind: str, tmp_path: Path) -> None:
    tagger = make_tagger(tmp_path, kind)
    for place, layer in enumerate(layers_of(tagger.network)):
        shorter = copy.deepcopy(tagger)
        keep_layers(shorter.network, [1 - place])
        with skipped(layer):
            passed_by = run(tagger)
        torch.testing.assert_close(run(shorter), passed_by, atol=1e-5, rtol=1e-5)
        assert (run(shorter) - run(tagger)).abs().max() > 0.01
        assert shorter.config.num_hidden_layers == 1
        save_tagger(shorter, tmp_path / str(place), tokenizer_file=make_tokenizer(tmp_path / "tokenizer"))
        again = load_tagger(tmp_path / str(place))
        assert read_origins(again.network) == (1 - place,)
        torch.testing.assert_close(run(again), passed_by, atol=1e-5, rtol=1e-5)


def test_a_layer_that_does_nothing_goes_whole(tmp_path: Path) -> None:
    tagger = make_tagger(tmp_path)
    make_idle(tagger, layer=0)

    def cost(kind: str, units: int) -> float:
        return float(units) + (kind != "norms") * 0.5 * (units > 0)

    curves = measure_curves(tagger, make_windows(40), cost=cost, n_fisher=40, n_losses=20)
    assert curves[0].loss_without < 1e-3 < curves[1].loss_without
    whole_ms = max(way.ms for way in curves[1].ways())
    found = prune(tagger, curves, budget_ms=whole_ms)
    assert read_origins(found.tagger.network) == (1,)
    assert len(found.shape) == 1
    assert found.ms == pytest.approx(whole_ms)


def make_idle(tagger: Tagger, *, layer: int) -> None:
    """Let a layer of BERT give what it is given: what it adds is nothing, what its norms do is done before."""
    weights = tagger.network.state_dict()
    for name, value in weights.items():
        if f"layer.{layer}." in name and ".output." in name and "LayerNorm" not in name:
            value.zero_()


def test_the_choice_is_the_best_of_all(tmp_path: Path) -> None:
    chance = np.random.default_rng(5)
    curves = [
        [Option(units=(i,), loss=float(loss), ms=float(ms), weight=torch.empty(0))
         for i, (loss, ms) in enumerate(chance.random((4, 2)))]
        for _ in range(5)
    ]  # fmt: skip
    for budget_ms in (1.0, 1.7, 2.5, 5.0):
        ways = [way for way in itertools.product(*curves) if sum(option.ms for option in way) <= budget_ms]
        if not ways:
            with pytest.raises(InvalidValue, match="cannot be met: the layers take"):
                choose(curves, budget_ms=budget_ms)
            continue
        best = min(sum(option.loss for option in way) for way in ways)
        found = choose(curves, budget_ms=budget_ms)
        assert sum(option.ms for option in found) <= budget_ms
        assert sum(option.loss for option in found) == pytest.approx(best, abs=0.02), "times are rounded up"


def test_least_squares_puts_the_work_of_a_twin_on_what_stays() -> None:
    chance = torch.Generator().manual_seed(1)
    inputs = torch.randn(500, 3, generator=chance)
    inputs = torch.cat([inputs, inputs[:, :1]], dim=1)
    whole = torch.randn(2, 4, generator=chance)
    fitted = refit(whole, (inputs.T @ inputs).double(), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(inputs[:, :3] @ fitted.T, inputs @ whole.T, atol=0.02, rtol=0.02)


def test_a_silent_head_is_not_important(tmp_path: Path) -> None:
    tagger = make_tagger(tmp_path)
    heads = find_parts(tagger.network)[0]
    with torch.no_grad():
        heads.out.weight[:, : heads.unit] = 0
    felt = measure_importance(tagger, make_windows(20))
    assert felt[0][0] == 0
    assert felt[0][1] > 0
    assert [len(one) for one in felt] == [part.n_units for part in find_parts(tagger.network)]


@pytest.mark.parametrize("kind", TYPES)
def test_a_pruned_tagger_is_saved_loaded_and_exported(kind: str, tmp_path: Path) -> None:
    tagger = make_tagger(tmp_path, kind)
    before = run(tagger)
    windows = make_windows(40)

    def cost(part: str, units: int) -> float:
        return float(units)

    curves = measure_curves(tagger, windows, cost=cost, n_fisher=40, n_losses=20)
    torch.testing.assert_close(run(tagger), before, atol=0, rtol=0)
    whole = prune(tagger, curves, budget_ms=sum(max(way.ms for way in layer.ways()) for layer in curves))
    torch.testing.assert_close(run(whole.tagger), before, atol=1e-5, rtol=1e-5)
    assert prune(tagger, curves, budget_ms=1e-9).shape == (), "every layer can go"
    nothing = prune(tagger, curves, budget_ms=1e-9).tagger
    pruned = prune(tagger, curves, budget_ms=25.0)
    assert pruned.ms <= 25.0
    check_files_answer_alike(pruned.tagger, tmp_path / "some")
    curves = measure_curves(pruned.tagger, windows, cost=cost, n_fisher=40, n_losses=20)
    further = prune(pruned.tagger, curves, budget_ms=12.0)
    assert further.ms <= 12.0
    before, after = (dict(zip(read_origins(one.tagger.network), one.shape, strict=True)) for one in (pruned, further))
    assert all(a <= b for place in after for a, b in zip(after[place], before[place], strict=True))
    check_files_answer_alike(nothing, tmp_path / "none")
    assert measure_curves(nothing, windows, cost=cost, n_fisher=40, n_losses=20) == []


def check_files_answer_alike(tagger: Tagger, folder: Path) -> None:
    """Save, load, export: every runtime gives what the tagger gives, and int8 nearly always its labels."""
    from millis.compiling.comparing import compare, loaded, run_all
    from millis.compiling.onnx import export_embeddings, export_ids, load_for_export
    from millis.compiling.openvino import convert_onnx
    from millis.compressing.quantize import quantize_openvino

    save_tagger(tagger, folder / "torch", tokenizer_file=make_tokenizer(folder / "tokenizer"))
    again = load_tagger(folder / "torch")
    assert read_shape(again.network) == read_shape(tagger.network)
    torch.testing.assert_close(run(again), run(tagger), atol=1e-6, rtol=1e-6)
    table = export_embeddings(load_for_export(folder / "torch"), folder / "embeddings.onnx")
    convert_onnx(folder / "embeddings.onnx", folder / "openvino", table=table.numpy(), second=None)
    export_ids(load_for_export(folder / "torch"), folder / "onnxruntime" / "model.onnx")
    quantize_openvino(folder / "openvino", folder / "int8", calibration=draw_windows(20, seed=5))
    ids = draw_windows(30, seed=9)
    with loaded("torch", folder / "torch") as reference:
        wanted = run_all(reference, ids)
    for name in ("openvino", "onnxruntime"):
        with loaded(name, folder / name) as backend:
            assert compare(wanted, run_all(backend, ids)).max_abs < 1e-4
    with loaded("openvino", folder / "openvino", settings=BackendSettings(buckets=(len(ids[0]),))) as backend:
        assert compare(wanted[:1], run_all(backend, ids[:1])).max_abs < 1e-4, "at a static length too"
    with loaded("openvino", folder / "int8") as backend:
        assert compare(wanted, run_all(backend, ids)).agreement > 0.9
