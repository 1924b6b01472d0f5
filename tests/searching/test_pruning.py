"""Pruned networks keep the layers and the activation that they are asked for, and tell what became of each layer."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from fitting import make_base, make_sentences
from making import write_conll
from millis.backends.encoder import read_activation, read_origins
from millis.bundles import Rung, ServingShape
from millis.cli.app import app
from millis.contract import Clause, Contract, judge, judge_quality
from millis.measuring.layers import LayerTable, halves_of
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.searching import cutting, layers, search, trying
from millis.searching.building import Built, Reference, score_reference
from millis.searching.candidates import SHARES, propose
from millis.searching.case import Case, prepare
from millis.searching.concluding import Proven, climb
from millis.searching.cutting import Change
from millis.searching.layers import choose_activation
from millis.searching.pruning import Pruner
from millis.searching.search import _is_further, _note_untaught, _Search
from millis.searching.settings import FitSettings
from millis.searching.trying import Candidate, artifact_case
from millis.searching.vocabulary import trim_reference
from millis.searching.zeros import tell_zeros, word_zeros

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Reference]:
    folder = tmp_path_factory.mktemp("pruning")
    files = {
        part: write_conll(folder / f"{part}.conll", make_sentences(n, seed=seed))
        for part, n, seed in (("train", 60, 1), ("dev", 20, 2), ("test", 20, 3))
    }
    base = make_base(folder / "base")
    settings = FitSettings(base=str(base), out=folder / "names.millis", **files)
    case = prepare(Contract(p99="1 s", rate=50, max_drop=5.0), settings, began=0.0)
    tagger = build_tagger(base, head=case.task.head, seed=0).eval()
    save_tagger(tagger, folder / "reference", tokenizer_file=case.tokenizer_file)
    return case, score_reference(folder / "reference", task=case.task, splits=case.splits)


def make_pruner(prepared: tuple[Case, Reference], change: Change, *, runtime: str = "fake-int8") -> Pruner:
    case, reference = prepared
    rest, norms, halves = (0.5, 0.6), (0.05, 0.05), [(1, (0.7, 1.0)), (2, (0.9, 1.4))]
    table = LayerTable(
        runtime=runtime, n_layers=2, tokens=(8, 32), rest_ms=rest, norms_ms=norms, extra_ms=(0.0, 0.0), scale=(1.0, 1.0),
        heads=halves_of(halves, rest_ms=rest, n_layers=2, whole_bytes=100),
        channels=halves_of([(n * 64, ms) for n, ms in halves], rest_ms=rest, n_layers=2, whole_bytes=100),
    )  # fmt: skip
    return Pruner(artifact_case(case, reference), reference, table=table, lengths=case.lengths, coldness=0.5, change=change)


def test_only_the_layers_asked_for_stay_and_those_are_distilled(
    prepared: tuple[Case, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = make_pruner(prepared, Change(layers=(1,), activation="relu"))
    pruning = pruner.prune_to(70)
    network = load_tagger(pruning.folder).network
    assert read_origins(network) == (1,)
    assert read_activation(network.config) == "relu"
    gone, kept = pruning.layers
    assert (gone.heads, gone.channels, gone.ms) == (0, 0, 0.0)
    assert (kept.heads, kept.channels, kept.ms) == (2, 128, kept.whole_ms), "70 % are more than one layer takes"
    assert pruning.choices[0].choice == "gone 2/128"
    assert "distilled" in pruning.step.step
    assert pruner.prune_to(70) == pruning, "found again"
    monkeypatch.setattr(cutting, "distil", None)
    for _ in range(2):
        assert pruner.prune_to(60) == pruning, "the same layers, which are not trained twice"
    assert dict(pruning.predicted)[8] == pytest.approx(0.5 - 0.05 + 0.4)


def test_a_floor_above_the_reference_itself_is_said_and_nothing_is_pruned(
    prepared: tuple[Case, Reference], capsys: pytest.CaptureFixture[str]
) -> None:
    case, reference = prepared
    high = replace(case, contract=Contract(p99="1 s", rate=50, floor=99.0))
    found = _Search(high, reference, is_grafted=False)
    found.try_pruned()
    found.try_pruned()
    assert [note.partition(":")[0] for note in found.notes] == [
        f"the uncompressed model itself reaches F1 {reference.dev.value:.2f} on dev and {reference.test.value:.2f} on test,"
        " below the floor of 99"
    ]
    assert capsys.readouterr().err.count("the uncompressed model itself") == 1
    assert found.tried == []


def test_a_floor_out_of_reach_gives_no_layer_back_to_fp32(prepared: tuple[Case, Reference]) -> None:
    case, reference = prepared
    best = replace(reference, dev=replace(reference.dev, value=80.0))
    for floor, allowed in ((99.0, None), (78.5, 1.5)):
        asked = replace(case, contract=Contract(p99="1 s", rate=50, floor=floor))
        assert artifact_case(asked, best).max_drop == allowed


def test_what_is_below_the_floor_is_no_rung_of_the_ladder(
    prepared: tuple[Case, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, reference = prepared
    contract = Contract(p99="1 s", rate=50, floor=70.0)
    qualities = {100: 90.0, 60: 80.0, 24: 60.0}
    shares: list[int] = []

    def make(share: int) -> Candidate:
        rung = Rung(name=f"{share}pc", backend="onnxruntime", precision="int8", folder="x", quality={"value": qualities[share]})
        return Candidate(
            variant=replace(propose(device="cpu")[1], share=share), rung=rung, built=Built(folder=Path(), steps=()),
            shape=ServingShape(), quality=qualities[share], drop=0.0, predicted_ms=share / 10,
        )  # fmt: skip

    def prove(_: Case, candidate: Candidate, *, reference: Reference) -> Proven:
        clauses = judge_quality(contract, quality=candidate.quality - 9.0, reference=90.0, interval=(0.0, 0.0))
        shares.append(candidate.variant.share)
        rung = msgspec.structs.replace(candidate.rung, quality={"value": candidate.quality - 9.0})
        load: Any = SimpleNamespace(load=SimpleNamespace(percentile_ms=lambda _: candidate.predicted_ms, due_percentile_ms=lambda _: None))
        certificate: Any = SimpleNamespace(contract={"percentile": 99})
        verdict = judge([Clause(name="p99", status="kept", detail=""), *clauses])
        return Proven(candidate=candidate, rung=rung, served=load, verdict=verdict, certificate=certificate)

    def prune(share: int) -> int:
        if share == 32:
            return 60  # the same layers
        found.tried.append(make(share))
        return share

    found = _Search(replace(case, contract=contract, settings=replace(case.settings, rungs=9)), reference, is_grafted=False)
    found.tried = [make(100)]
    monkeypatch.setattr(search, "prove_candidate", prove)
    monkeypatch.setattr(found, "save", lambda: None)
    monkeypatch.setattr(found, "_can_prune", lambda: True)
    monkeypatch.setattr(found, "_try_static", lambda: None)
    monkeypatch.setattr(found, "_prune_to", prune)
    found.fill_ladder()
    assert shares == [100, 60], "dev says that 24 % are below it: neither proven nor pruned further"
    assert found.notes == ["the ladder ends above 24 %: what that leaves is below the floor on dev"]
    qualities[60] = 78.0
    below = prove(case, make(60), reference=reference)
    assert [one.rung.name for one in climb(found.proven)] == ["60pc", "100pc"]
    assert climb([below]) == [], "test says so"


@pytest.mark.parametrize(("least", "shares"), [(100, [60, 32, 18, 12]), (40, [24, 12]), (18, [12]), (12, [])])
def test_a_ladder_goes_down_by_long_steps_and_to_the_end(least: int, shares: list[int]) -> None:
    found = []
    for share in SHARES:
        if _is_further(share, than=least):
            found.append(share)
            least = share
    assert found == shares


def test_without_a_wish_the_activation_stays(prepared: tuple[Case, Reference]) -> None:
    pruning = make_pruner(prepared, Change(), runtime="other-int8").prune_to(60)
    network = load_tagger(pruning.folder).network
    assert read_activation(network.config) == "gelu"
    assert len(pruning.layers) == 2
    assert len(pruning.choices) == 1


@pytest.mark.parametrize(("own", "relu", "asked", "chosen"), [
    (0.30, 0.20, "auto", "relu"), (0.300, 0.299, "auto", None), (0.30, 0.31, "relu", "relu"),
])  # fmt: skip
def test_relu_is_taken_where_a_layer_is_faster_for_it(
    own: float, relu: float, asked: str, chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "time_in_turns", lambda loaded, tokens: ([(ms,) * len(tokens) for ms in (0.1, 0.1 + own, 0.1 + relu)], []))
    found, choice = choose_activation(
        asked, make_base(tmp_path / "base"), runtime="onnxruntime-int8", tokens=(8, 16), is_static=False, lengths=[8, 16, 12]
    )
    assert found == chosen
    assert f"{own:.4f} ms with gelu and {relu:.4f} with relu" in choice.reason
    assert ("saves nothing" in choice.reason) == (relu > 0.98 * own)


@pytest.mark.parametrize(("flags", "said"), [
    (("--layers", "1,0"), "layers cannot be 1, 0"),
    (("--layers", "0,7"), "this base has 0 to 1"),
    (("--layers", "a"), "layers cannot be 'a'"),
    (("--activation", "tanh"), "choose one of own, relu, auto"),
    (("--sparse", "1.5"), "give a share above 0 and below 1"),
    (("--sparse", "0.5", "--device", "cuda"), "sparse is measured on cpu"),
    (("--adapt", "adapter", "--activation", "relu"), "which pruning cannot cut"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    train = write_conll(tmp_path / "train.conll", make_sentences(30, seed=1))
    done = CliRunner().invoke(
        app, ["fit", "--train", str(train), "--base", str(base), "-o", str(tmp_path / "x.millis"), "--p99", "1 s", *flags]
    )
    assert done.exit_code != 0
    assert said in " ".join((done.output + str(done.exception)).split())
    assert not (tmp_path / "x.millis").exists()


def test_zeros_are_timed_beside_none_and_told(prepared: tuple[Case, Reference]) -> None:
    case, reference = prepared
    line = tell_zeros(case, reference, share=0.75)
    assert line.startswith("75 % zeros in the layers' matrices (NNCF, by magnitude): ")
    times = [float(ms) for ms in re.findall(r"([\d.]+) ms", line)]
    assert len(times) == 3
    assert all(0 < ms < 100 for ms in times)
    assert "no rung is made of it" in line
    assert not (case.folder / "zeros").exists(), "nothing is left behind"
    assert tell_zeros(case, reference, share=0.75) == line, "found again"


def test_where_zeros_pay_it_is_said_and_where_not_too() -> None:
    pays = word_zeros(0.9, dense_ms=1.0, plain_ms=1.0, packed_ms=0.8, quality="F1 10.00 on dev, of 40.00")
    assert "they save 20 % here" in pays
    assert "F1 10.00 on dev, of 40.00, untrained" in pays
    assert "save nothing that counts" in word_zeros(0.9, dense_ms=1.0, plain_ms=0.99, packed_ms=1.2, quality="")


def test_trimming_tells_what_it_saves_and_that_kept_text_is_answered_as_before(prepared: tuple[Case, Reference]) -> None:
    case, reference = prepared
    trimmed, taught = trim_reference(case, reference)
    step = taught.steps[-1]
    assert trimmed.tokenizer_file != case.tokenizer_file
    assert step.agreement == 1.0
    assert step.max_abs is not None
    assert step.max_abs < 1e-4
    assert re.search(r"The tokenizer loads in [\d.]+ ms, before in [\d.]+ ms; a server maps a table of [\d.]+ kB, before of", step.reason)
    assert taught.dev == reference.dev, "what trimming loses counts as lost"


def test_a_vocabulary_that_leads_below_the_floor_stays_whole(prepared: tuple[Case, Reference]) -> None:
    case, reference = prepared
    floored = replace(case, contract=Contract(p99="1 s", rate=50, floor=reference.dev.value + 2.0))
    better = replace(reference, dev=replace(reference.dev, value=reference.dev.value + 3.0))
    kept, taught = trim_reference(floored, better)
    assert kept.tokenizer_file == case.tokenizer_file, "it would lose 3 points, and 1 leads down to the floor"
    assert taught.choices[-1].choice == "stays whole"


def test_a_network_that_learnt_nothing_is_told_of(prepared: tuple[Case, Reference]) -> None:
    case, reference = prepared
    for value, n_notes in ((0.0, 1), (0.1, 0)):
        told = _note_untaught(case, replace(reference, test=replace(reference.test, value=value))).notes
        assert sum("a drop from that promises nothing" in note for note in told) == n_notes


def test_what_was_probed_is_found_again_for_its_own_percentile(
    prepared: tuple[Case, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, reference = prepared
    crowd = SimpleNamespace(is_crowded=False)
    load = SimpleNamespace(percentile_ms=lambda percentile: percentile / 10, n_requests=150, n_ok=150)
    seen = SimpleNamespace(load=load, crowd=crowd)
    monkeypatch.setattr(trying, "save_draft", lambda *_, **__: None)
    monkeypatch.setattr(trying, "measure_served", lambda *_, **__: seen)
    candidate = Candidate(
        variant=propose(device="cpu")[0], rung=Rung(name="x", backend="fake", precision="fp32", folder="rungs/x"),
        built=Built(folder=reference.folder, steps=()), shape=ServingShape(), quality=1.0, drop=0.0, predicted_ms=1.0,
    )  # fmt: skip

    def probe(**bound: str) -> float | None:
        asked = replace(case, contract=Contract(rate=50, **bound))
        return trying.probe(asked, [candidate])[0].measured_ms

    assert probe(p99="1 s") == 9.9
    monkeypatch.setattr(trying, "save_draft", None)
    assert probe(p99="2 s") == 9.9, "found again, it is not measured"
    monkeypatch.setattr(trying, "save_draft", lambda *_, **__: None)
    assert probe(p50="1 s") == 5.0
    load.n_ok = 50  # the others wait still, and the queue grows on
    assert probe(p95="1 s") == pytest.approx(28.5)
