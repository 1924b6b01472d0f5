"""The whole loop through the real command line, on a small real model."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import millis
from fitting import Case, make_sentences, run_millis
from making import forge_file, write_conll
from millis.data.readers import read_examples
from millis.errors import InvalidBundle
from millis.models.prediction import predict
from millis.models.taggers import load_tagger
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

Fitted = tuple[Case, dict[str, Any]]


def test_a_fit_ends_with_a_kept_contract_and_a_report(fitted: Fitted) -> None:
    case, document = fitted
    assert document["certificate"]["verdict"]["status"] == "kept"
    assert document["quality"]["value"] > 80
    training = next(one for one in millis.open_bundle(case.bundle).manifest.choices if one.what == "training")
    assert training.choice.endswith("the best on dev")
    assert "learning rate 0.001: chosen for a base that is 64 wide" in training.reason
    layout = next(one for one in millis.open_bundle(case.bundle).manifest.choices if one.what == "rung and layout")
    seen_ms = document["certificate"]["measurement"]["latency"]["p99_ms"]
    assert layout.reason.startswith(f"kept, p99 {seen_ms:.2f} ms in its proof at 250/s"), "what was probed decides nothing"
    served = document["certificate"]
    lines = [json.loads(line) for line in (case.bundle.with_name("names.run") / "ledger.jsonl").read_text().splitlines()]
    proofs = [one["result"] for one in lines if one["what"] == "proof"]
    kept = [one["serving"] for one in proofs if one["rung"] == served["rung"] and one["verdict"]["status"] == "kept"]
    assert served["serving"]["workers"] == max(one["workers"] for one in kept), "processes, where they keep it"
    chosen = next(one for one in millis.open_bundle(case.bundle).manifest.tried if one.is_chosen)
    assert chosen.measured_ms == pytest.approx(seen_ms, abs=0.01), "what a prediction is compared with is the proof"
    report = (case.bundle / "report.html").read_text()
    assert "http://" not in report.replace("http://www.w3.org", "")
    subject = document["certificate"]["subject"]
    assert "tokenizer.json" in subject
    assert any(name.startswith("rungs/") for name in subject)
    bundle = millis.open_bundle(case.bundle)
    tables = [rung.table for rung in bundle.manifest.rungs if rung.backend == "openvino"]
    assert all(table in bundle.manifest.files for table in tables)
    assert not [name for name in bundle.manifest.files if name.endswith(".npy") and name not in tables]


def test_inspect_shows_rungs_times_quality_and_reasons(fitted: Fitted) -> None:
    case, _ = fitted
    shown = run_millis("inspect", case.bundle)
    assert shown.returncode == 0
    for word in ("contract", "KEPT", "rung", "p99", "why", "step", "agrees on"):
        assert word in shown.stdout
    document = json.loads(run_millis("inspect", case.bundle, "--json").stdout)
    assert document["rungs"][0]["latency"][0]["p50_ms"] > 0
    assert document["rungs"][0]["n_bytes"] > 0


def test_served_loaded_and_reference_answers_are_the_same(fitted: Fitted) -> None:
    case, _ = fitted
    texts = [example.text for example in read_examples(case.folder / "test.conll")]
    model = millis.load(case.bundle)
    loaded = model(texts)
    with Supervisor(ServeSettings(bundles=(str(case.bundle),), port=0)) as server:
        served = [httpx.post(f"{server.url}/v1/ner", json={"input": text}).json()["results"][0] for text in texts]
    reference = predict(load_tagger(case.folder / "names.run" / "training" / "best"), task=model.task, texts=texts)
    assert served == loaded
    spans = [[(one["start"], one["end"], one["label"]) for one in answer["entities"]] for answer in loaded]
    wanted = [[(one["start"], one["end"], one["label"]) for one in answer["entities"]] for answer in reference]
    assert np.mean([a == b for a, b in zip(spans, wanted, strict=True)]) > 0.97
    for mine, theirs in zip(loaded, reference, strict=True):
        if len(mine["entities"]) == len(theirs["entities"]):
            for a, b in zip(mine["entities"], theirs["entities"], strict=True):
                assert a["score"] == pytest.approx(b["score"], abs=0.1), "int8 scores within 0.1 of fp32"


def test_a_tokenizer_with_more_pieces_than_the_network_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    case, _ = fitted
    shutil.copytree(case.bundle, tmp_path / "forged.millis")
    bundle = millis.open_bundle(tmp_path / "forged.millis")
    tokenizer = json.loads((bundle.path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"more{i}": len(tokenizer["model"]["vocab"]) + i for i in range(50)}
    (bundle.path / "tokenizer.json").write_text(json.dumps(tokenizer))
    forge_file(bundle, "tokenizer.json")
    for rung in bundle.manifest.rungs:
        with pytest.raises(InvalidBundle, match="belongs to another tokenizer"):
            millis.load(bundle.path, rung=rung.name)
    refused = run_millis("serve", bundle.path, "--port", "0")
    assert refused.returncode == 2
    assert "belongs to another tokenizer" in refused.stderr


def test_a_base_with_fewer_rows_than_pieces_is_refused(case: Case, tmp_path: Path) -> None:
    shutil.copytree(case.folder / "base", tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    flags = [str(tmp_path / "base") if flag == str(case.folder / "base") else flag for flag in case.flags]
    refused = run_millis("fit", *flags, "--p99", "500 ms", "-o", tmp_path / "o.millis")
    assert refused.returncode == 2
    assert "20 pieces" in refused.stderr


def test_prove_evaluate_and_ask_work_on_the_bundle(fitted: Fitted) -> None:
    case, document = fitted
    proof = run_millis("prove", case.bundle, "--requests", "500", "--rate", "100", "--json")
    assert proof.returncode == 0, proof.stderr
    certificate = json.loads(proof.stdout)["certificate"]
    assert certificate["contract"]["rate_per_s"] == 100
    assert 0 <= certificate["measurement"]["others_share"] < 1, "who else had the cores stands beside the times"
    assert "others meanwhile: " in run_millis("inspect", case.bundle).stdout
    short = run_millis("prove", case.bundle, "--requests", "20")
    assert short.returncode == 4
    assert "UNDECIDED" in short.stdout
    scored = json.loads(run_millis("evaluate", case.bundle, "--test", case.folder / "test.conll", "--json").stdout)
    assert scored["value"] == pytest.approx(document["quality"]["value"])
    asked = json.loads(run_millis("ask", case.bundle, "maria wrote from lisbon", "--json").stdout)
    assert [one["label"] for one in asked["results"][0]["entities"]] == ["PER", "LOC"]


def test_an_impossible_contract_gets_numbers_and_exit_code_3(fitted: Fitted) -> None:
    case, _ = fitted
    out = case.folder / "fast.millis"
    (case.folder / "fast.run").symlink_to(case.folder / "names.run")
    done = run_millis("fit", *case.flags, "--p99", "0.02 ms", "--memory-mb", "1", "--within", "3m", "-o", out, "--json")
    assert done.returncode == 3, done.stderr[-2000:]
    assert "nearest:" in done.stderr
    assert "instead: p99 <=" in done.stderr
    assert "embeddings, norms and head alone take" in done.stderr.partition("no candidate is proven")[2]
    assert "pruned to" not in done.stderr, "nothing is trained that cannot fit"
    assert "memory" in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 3
    assert any("no pruning takes them away" in note for note in millis.open_bundle(out).manifest.notes)
    clauses = {one["name"]: one["status"] for one in millis.open_bundle(out).certificate.verdict["clauses"]}
    assert clauses["p99"] == clauses["memory"] == "broken", "however late the generator was"


def test_a_fit_that_was_killed_goes_on_to_the_end(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "killed.millis"
    command = [sys.executable, "-m", "millis", "fit", *case.flags, "--p99", "500 ms", "-o", str(out)]
    for marker in ("epoch 2", "building onnxruntime-int8"):
        running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert running.stderr is not None
        for line in running.stderr:
            if marker in line:
                break
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert not out.exists(), "nothing half-made stands in the bundle's place"
    done = run_millis(*command[3:])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "building openvino-fp32" not in done.stderr, "what was finished before the kill is not made again"
    assert millis.load(out)("maria wrote")["entities"]


def test_a_fit_that_is_started_again_proves_again_only_what_is_a_day_old(fitted: Fitted) -> None:
    case, document = fitted
    out, run = case.folder / "again.millis", case.folder / "again.run"
    shutil.copytree(case.folder / "names.run", run)

    def fit_again() -> tuple[dict[str, Any], str]:
        done = run_millis("fit", *case.flags, "--p99", "500 ms", "-o", out, "--json")
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)["certificate"], done.stderr

    found, said = fit_again()
    assert found == document["certificate"]
    assert f"kept, as proven at {found['created']}" in said
    assert found["created"] in (out / "report.html").read_text()
    ledger = run / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace(found["created"], "2026-01-02T03:04:05+00:00"))
    assert fit_again()[0]["created"] > found["created"]


def test_a_fit_trims_the_vocabulary_and_takes_the_best_of_several_trainings(case: Case, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a corpus line about lisbon\n\nand one more\n")
    out = tmp_path / "small.millis"
    asked = ("--trim-vocabulary", "--corpus", tmp_path / "corpus.txt", "--tune", "2", "--epochs", "3", "--p99", "500 ms")
    done = run_millis("fit", *case.flags, *asked, "-o", out, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "training 2 of 2" in done.stderr
    training = next(one for one in millis.open_bundle(out).manifest.choices if one.what == "training")
    assert "learning rate" in training.reason
    steps = millis.open_bundle(out).rung().steps
    assert steps[0].step.startswith("vocabulary trimmed from ")
    assert steps[0].quality > 80
    assert (steps[0].agreement, steps[0].max_abs < 1e-4) == (1.0, True), "kept text is answered as before"
    assert millis.load(out)("maria wrote from lisbon")["entities"]


def test_a_fit_fills_a_ladder_and_the_cheapest_rung_that_keeps_the_contract_serves(fitted: Fitted) -> None:
    case, _ = fitted
    out = case.folder / "ladder.millis"
    (case.folder / "ladder.run").symlink_to(case.folder / "names.run")
    asked = ("fit", *case.flags, "--rungs", "2", "--within", "75 s", "--p99", "500 ms", "-o", str(out), "--json")
    running = subprocess.Popen([sys.executable, "-m", "millis", *asked], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert running.stderr is not None
    told, statuses = "", []
    for line in running.stderr:
        told += line
        if "the best so far stands at" in line:
            statuses.append(millis.open_bundle(out).certificate.verdict["status"])
    assert running.wait() == 0, told[-2000:]
    assert statuses[0] == "kept", "who kills it now has a bundle that serves"
    assert "layer table of" in told.partition("the best so far stands at")[2]
    assert "pruned to 60 % of the layers' time" in told
    bundle = millis.open_bundle(out)
    proofs = {rung.name: bundle.certificate_of(rung.name) for rung in bundle.manifest.rungs}
    assert all(proof is not None and proof.verdict["status"] == "kept" for proof in proofs.values())
    assert bundle.manifest.rung == bundle.manifest.rungs[0].name
    points = sorted((proof.measurement["latency"]["p99_ms"], bundle.rung(name).quality["value"]) for name, proof in proofs.items())
    assert points == sorted(points, key=lambda point: point[1]), "who takes longer is better"
    assert len({quality for _, quality in points}) == len(points)
    report = (out / "report.html").read_text()
    assert "The ladder" in report
    checks = bundle.manifest.table_checks
    assert {one.n for one in checks} == {10}
    assert all(0 <= one.median_error <= one.worst_error for one in checks)
    assert "How right the layer table is" in report
    assert all(f"{100 * one.worst_error:.1f} %" in report for one in checks)
    for rung in bundle.manifest.rungs:
        assert all(step.step.replace("'", "&#x27;") in report for step in rung.steps), "what was done to every rung"
        assert all(choice.choice in report for choice in rung.choices)
    shown = run_millis("inspect", out).stdout
    assert all(name in shown for name in proofs)


def test_a_fit_that_leaves_adapters_in_the_graph_says_that_it_cannot_prune_and_goes_on(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "adapted.millis"
    write_conll(tmp_path / "few.conll", make_sentences(300, seed=0))
    asked = ("--train", tmp_path / "few.conll", "--adapt", "adapter", "--epochs", "3", "--rungs", "2", "--trim-vocabulary")
    done = run_millis("fit", *case.flags, *asked, "--rate", "200", "--p99", "500 ms", "-o", out, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "layer table" not in done.stderr
    assert "no pruned rungs: adapter leaves an adapter behind each half of a layer" in done.stderr
    assert "adapted by adapter: " in done.stderr
    bundle = millis.open_bundle(out)
    assert any("no pruned rungs" in note for note in bundle.manifest.notes)
    assert "entities" in millis.load(out)("maria wrote from lisbon")
