"""The arithmetic of the search: predictions, ledgers, relaxations, made-up bodies."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from making import make_fake_bundle
from millis.bundles import LatencyRow, ServingShape
from millis.bundles.saving import certify
from millis.contract import Contract
from millis.errors import InvalidValue, RunFailed
from millis.searching.bodies import bodies_of_lengths
from millis.searching.candidates import fit_table, predict_percentile_ms, propose, scale_table, shapes_for
from millis.searching.concluding import Proven, choose_served, climb
from millis.searching.ledger import Ledger, alone_in
from millis.searching.proving import measure_served, plan_requests, prove
from millis.searching.relaxing import Point, relax
from millis.searching.trying import build_static
from millis.tasks.task import Head
from millis.tasks.tokenization import Tokenizer

TABLE = tuple(LatencyRow(tokens=t, p50_ms=t / 4, p99_ms=t / 3, n=20) for t in (8, 16, 32, 64))
REQUESTS = [(8,)] * 50 + [(16,)] * 30 + [(32,)] * 15 + [(64,)] * 5


def predict(rate: float, shape: ServingShape, *, percentile: float = 99.0) -> float:
    return predict_percentile_ms(TABLE, requests=REQUESTS, rate_per_s=rate, shape=shape, percentile=percentile)


def test_a_busier_server_is_predicted_slower() -> None:
    shape = ServingShape(workers=1, threads=2)
    assert predict(1, shape) < predict(100, shape) < predict(300, shape)
    assert predict(100, shape, percentile=50.0) < predict(100, shape)


def test_an_idle_server_is_predicted_to_take_its_service_time() -> None:
    seen = predict(0.1, ServingShape(workers=1, threads=1), percentile=50.0)
    assert 8 / 4 < seen < 16 / 4 + 2


def test_one_queue_is_predicted_faster_than_two() -> None:
    assert predict(150, ServingShape(workers=1, threads=2)) < predict(150, ServingShape(workers=2, threads=0))


def test_a_device_that_batches_is_predicted_to_carry_what_one_by_one_cannot() -> None:
    shape = ServingShape(workers=1, threads=0)
    together = [
        predict_percentile_ms(TABLE, requests=REQUESTS, rate_per_s=rate, shape=shape, percentile=99.0, is_batched=True)
        for rate in (0.1, 100, 1000)
    ]
    assert together == sorted(together)
    alone = predict(0.1, shape)  # on cores that others use too: so its slowest take a little longer
    assert alone / 1.25 < together[0] < alone
    assert together[2] < 3 * 64 / 4 < predict(1000, shape)


def test_a_request_of_many_windows_is_predicted_to_run_them_one_after_the_other() -> None:
    shape = ServingShape(workers=1, threads=1)
    asked: dict[str, Any] = {"rate_per_s": 0.1, "shape": shape, "percentile": 50.0}
    alone = predict_percentile_ms(TABLE, requests=[(8,)], **asked)
    many = predict_percentile_ms(TABLE, requests=[(8,) * 20], **asked)
    assert many - alone == pytest.approx(19 * 8 / 4, rel=0.02)
    mixed = predict_percentile_ms(TABLE, requests=[(8, 64, 16)], **asked)
    assert mixed - alone == pytest.approx((64 + 16) / 4, rel=0.02)
    assert predict_percentile_ms(TABLE, requests=[(8, 64, 16)], is_batched=True, **asked) == pytest.approx(
        predict_percentile_ms(TABLE, requests=[(64,)], is_batched=True, **asked)
    )


def test_where_a_request_has_too_many_windows_fewer_are_a_way_out() -> None:
    point = Point(
        name="good", quality=86, drop=0.2, predicted_ms=300, measured_ms=None, table=TABLE,
        shape=ServingShape(workers=1, threads=2),
    )  # fmt: skip
    told = relax([point], contract=Contract(p99="60 ms", rate=20), requests=[(16,) * 20, (8,) * 20], n_probed=200)
    ways = [re.fullmatch(r"instead: (\d+) documents of a request instead of 20 \(predicted\)", line) for line in told]
    assert [1 < int(way[1]) < 20 for way in ways if way] == [True]
    told = relax([point], contract=Contract(p99="1 ms", rate=20), requests=REQUESTS, n_probed=200)
    assert not [line for line in told if "documents" in line]


def test_a_gpu_is_offered_torch_in_each_precision_and_one_worker() -> None:
    variants = propose(device="cuda")
    assert [one.name for one in variants if one.backend == "torch"] == ["torch-fp16", "torch-bf16", "torch-fp32"]
    for one in variants:
        assert shapes_for(one, cores=16, device="cuda") == (ServingShape(workers=4, threads=0),)
        assert shapes_for(one, cores=2, device="cuda") == (ServingShape(workers=1, threads=0),)


def test_every_candidate_has_a_name_of_its_own_and_fits_the_cores() -> None:
    for cores in (1, 2, 8):
        variants = propose(device="cpu")
        assert len({variant.name for variant in variants}) == len(variants)
        for variant in variants:
            for shape in shapes_for(variant, cores=cores):
                assert shape.workers * max(shape.threads, 1) * variant.threads <= cores


def test_a_ledger_finds_what_was_done_for_the_same_inputs_only(tmp_path: Path) -> None:
    Ledger(tmp_path, inputs=["a"]).add("probe", "x", {"ms": 1})
    again = Ledger(tmp_path, inputs=["a"])
    assert again.find("probe", "x") == {"ms": 1}
    assert again.find("probe", "y") is None
    assert Ledger(tmp_path, inputs=["b"]).find("probe", "x") is None


def test_a_ledger_cut_short_by_a_crash_keeps_its_whole_lines(tmp_path: Path) -> None:
    Ledger(tmp_path, inputs=1).add("probe", "x", {"ms": 1})
    with (tmp_path / "ledger.jsonl").open("a") as stream:
        stream.write('{"what": "probe", "key": "y", "inp')
    again = Ledger(tmp_path, inputs=1)
    assert again.find("probe", "x") == {"ms": 1}
    again.add("probe", "z", {"ms": 3})
    assert Ledger(tmp_path, inputs=1).find("probe", "z") == {"ms": 3}


def test_an_impossible_contract_gets_points_and_relaxations_with_numbers() -> None:
    shape = ServingShape(workers=1, threads=2)
    slow = Point(name="good", quality=86, drop=0.2, predicted_ms=20, measured_ms=22, table=TABLE, shape=shape)
    rough = Point(name="rough", quality=80, drop=6.0, predicted_ms=4, measured_ms=5, table=TABLE, shape=shape)
    told = relax([slow, rough], contract=Contract(p99="10 ms", rate=100, max_drop=1.0), requests=REQUESTS, n_probed=1000)
    text = "\n".join(told)
    assert "nearest: rough: p99 measured 5 ms" in text
    assert "instead: p99 <= 25 ms" in text
    assert "6.0 points of quality instead of 1 (rough)" in text
    assert "texts of at most 16 tokens" in text or "texts of at most 8 tokens" in text
    told = relax([slow, rough], contract=Contract(p99="10 ms", rate=100, max_drop=None, floor=85), requests=REQUESTS, n_probed=1000)
    assert "instead: a floor of 80.0 instead of 85 (rough)" in told


def test_where_memory_alone_is_short_the_way_out_is_memory() -> None:
    shape = ServingShape(workers=1, threads=2)
    point = Point(
        name="good", quality=86, drop=0.2, predicted_ms=4, measured_ms=5, table=TABLE, shape=shape, memory_mb=95.2
    )  # fmt: skip
    told = relax([point], contract=Contract(p99="50 ms", rate=100, memory_mb=60), requests=REQUESTS, n_probed=1000)
    assert [line for line in told if "instead" in line] == ["instead: 110 MB of memory instead of 60 (good)"]


def test_where_more_comes_than_is_answered_no_time_is_told_and_the_rate_can_be_carried() -> None:
    shape = ServingShape(workers=1, threads=1)
    table = (LatencyRow(tokens=64, p50_ms=19.1, p99_ms=19.1, n=20),)  # 20 ms a request: 50 a second
    asked = {"requests": REQUESTS, "rate_per_s": 100.0, "shape": shape, "percentile": 99.0}
    seen_ms = predict_percentile_ms(table, n_requests=200, **asked)  # they waited behind each other
    assert 1_000 < seen_ms < 3_000
    slow = Point(name="slow", quality=86, drop=0.2, predicted_ms=1e5, measured_ms=seen_ms, table=table, shape=shape)
    told = relax([slow], contract=Contract(p99="1 s", rate=100), requests=REQUESTS, n_probed=200)
    assert not [line for line in told if "instead: p99" in line], "it grows with every further request"
    assert "instead: 40 requests/s instead of 100 (predicted)" in told
    told = relax([slow], contract=Contract(p99="21 ms", rate=100), requests=REQUESTS, n_probed=200)
    ways = [line for line in told if line.startswith("instead: ")]
    assert len(ways) == 1, "neither a lower rate nor a longer bound will do by itself"
    assert re.fullmatch(r"instead: p99 <= \d+ ms at 40 requests/s, both \(predicted\)", ways[0])


def test_of_layouts_that_keep_the_contract_processes_serve() -> None:
    def proven(rung: str, workers: int, *, seen_ms: float, is_kept: bool = True) -> Any:
        return SimpleNamespace(
            rung=SimpleNamespace(name=rung), candidate=SimpleNamespace(shape=SimpleNamespace(workers=workers)),
            order_ms=(seen_ms, seen_ms), is_kept=is_kept, has_quality=True, is_fast=is_kept,
        )  # fmt: skip

    fast, slow = proven("small", 1, seen_ms=4.0), proven("large", 2, seen_ms=6.0)
    beside, late = proven("small", 2, seen_ms=5.0), proven("small", 2, seen_ms=11.0, is_kept=False)
    assert choose_served([fast, slow]) is fast
    assert choose_served([slow, fast, late]) is fast
    assert choose_served([slow, fast, beside]) is beside
    assert choose_served([late]) is late


def test_who_refuses_is_slower_than_who_answers_late() -> None:
    """Of 1,000 due the first answered 900, all within 5 ms, the second all, within 9."""

    def proven(name: str, *, due_ms: float | None, seen_ms: float) -> Proven:
        load: Any = SimpleNamespace(percentile_ms=lambda _: seen_ms, due_percentile_ms=lambda _: due_ms)
        served: Any = SimpleNamespace(load=load)
        certificate: Any = SimpleNamespace(contract={"percentile": 99})
        verdict: Any = SimpleNamespace(status="broken", clauses=[SimpleNamespace(name="p99", status="broken")])
        rung: Any = SimpleNamespace(name=name, quality={"value": 80.0})
        candidate: Any = SimpleNamespace(shape=ServingShape())
        return Proven(candidate=candidate, rung=rung, served=served, verdict=verdict, certificate=certificate)

    refuses, late = proven("refuses", due_ms=None, seen_ms=5.0), proven("late", due_ms=9.0, seen_ms=9.0)
    worse = proven("worse", due_ms=None, seen_ms=7.0)
    assert choose_served([worse, refuses, late]) is late
    assert choose_served([worse, refuses]) is refuses
    assert climb([worse, refuses, late]) == [late]


def test_a_table_is_fitted_to_what_was_seen() -> None:
    asked = {"requests": REQUESTS, "rate_per_s": 100.0, "shape": ServingShape(workers=1, threads=2), "percentile": 99.0}
    for factor in (0.5, 1.7):
        slower = scale_table(TABLE, factor)
        fitted = fit_table(TABLE, seen_ms=predict_percentile_ms(slower, **asked), **asked)
        assert fitted[0].p50_ms == pytest.approx(slower[0].p50_ms, rel=0.01)
    assert fit_table(TABLE, seen_ms=None, **asked) == TABLE


def test_a_load_that_names_its_own_deadline_sees_the_queue_that_the_bound_hides(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=20.0, p99="100 ms")
    contract = Contract(p99="100 ms", rate=100)
    bodies = bodies_of_lengths(bundle)
    refusing = measure_served(bundle, contract=contract, bodies=bodies, n_requests=150).load
    waited = measure_served(bundle, contract=contract, bodies=bodies, n_requests=150, deadline_ms=1e4).load
    assert refusing.n_refused > 15, "half as many can be answered as come"
    assert refusing.due_percentile_ms(99) is None
    assert refusing.due_percentile_ms(10) == pytest.approx(refusing.percentile_ms(10 * 150 / refusing.n_ok))
    assert waited.n_refused == 0
    assert waited.due_percentile_ms(99) == waited.percentile_ms(99) > 500


def test_a_proof_says_that_the_certificate_before_was_of_another_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = prove(make_fake_bundle(tmp_path).path, n_requests=5, rate_per_s=100).bundle
    assert "another machine" not in capsys.readouterr().err
    certificate = bundle.certificate
    assert certificate is not None
    elsewhere = msgspec.structs.replace(certificate, machine=certificate.machine | {"cpu": "Example CPU 9000"})
    certify(bundle, certificates=[elsewhere])
    proven = prove(bundle.path, n_requests=5, rate_per_s=100).bundle.certificate
    told = capsys.readouterr().err
    assert "is of another machine (cpu: " in told
    assert "here, Example CPU 9000 there): what is measured now takes its place" in told
    assert proven is not None
    assert proven.machine["cpu"] != "Example CPU 9000"


def test_two_fits_in_one_run_folder_are_refused_and_a_killed_one_is_not_in_the_way(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from millis.searching.ledger import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "a.run")], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(InvalidValue, match=r"another fit works in a\.run now"), alone_in(tmp_path / "a.run"):
        pass
    other.kill()
    other.wait()
    with alone_in(tmp_path / "a.run"):
        pass
    (tmp_path / "b.run").touch()
    with pytest.raises(RunFailed, match="cannot be used"), alone_in(tmp_path / "b.run"):
        pass


def test_made_up_bodies_have_the_lengths_of_the_data(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    bodies = bodies_of_lengths(bundle, n=400)
    assert bodies == bodies_of_lengths(bundle, n=400)
    tokenizer = Tokenizer(bundle.path / "tokenizer.json")
    lengths = [len(tokenizer.encode(json.loads(body)["input"]).ids) + 2 for body in bodies]
    assert set(lengths) == {8, 16}
    assert 0.6 < lengths.count(8) / 400 < 0.9


def test_a_proof_sends_enough_to_decide_unless_told_how_many() -> None:
    contract = Contract(p99="5 ms", rate=10)
    assert plan_requests(contract, seconds=None, n_requests=None) >= 838
    assert plan_requests(contract, seconds=3, n_requests=None) == 30
    assert plan_requests(contract, seconds=None, n_requests=7) == 7
    with pytest.raises(InvalidValue, match="both"):
        plan_requests(contract, seconds=1, n_requests=1)


@pytest.mark.parametrize("head", [Head(("fits",), rows=1, separator=3), Head(("O", "B-name"))], ids=["two texts", "tokens"])
def test_static_vectors_are_not_taught_what_they_cannot_tell(head: Head) -> None:
    case = SimpleNamespace(task=SimpleNamespace(head=head), contract=Contract(p99="5 ms", rate=10), has_time=lambda: True)
    assert build_static(case, reference=None) == []  # type: ignore[arg-type]  # nothing more of them is asked
