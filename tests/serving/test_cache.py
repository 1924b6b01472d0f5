"""Kept answers through the real server: who gets them, who must not, and what it costs."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from making import make_fake_bundle
from millis.errors import InvalidValue
from millis.security.keys import KeyFile
from millis.serving.caching import AnswerCache, Asked
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.units import read_bytes

TEXT = "maria garcia of northwind wrote 😀 from 上海"


def ask(server: Supervisor, text: object = TEXT, *, key: str | None = None, **options: object) -> httpx.Response:
    headers = {} if key is None else {"X-API-Key": key}
    return httpx.post(f"{server.url}/v1/ner", json={"input": text, **options}, headers=headers, timeout=30)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-millis-cache"]


def test_nothing_is_kept_unless_asked_for(server: Supervisor) -> None:
    assert ServeSettings(bundles=("a",)).cache_bytes == 0
    for _ in range(2):
        assert "x-millis-cache" not in ask(server).headers


def test_a_kept_answer_is_the_same_bytes_and_is_counted(tmp_path: Path, server: Supervisor) -> None:
    with Supervisor(ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, cache_bytes=1_000_000)) as cached:
        for text in (TEXT, [TEXT, "x"], ["x"]):
            plain, first, second = ask(server, text), ask(cached, text), ask(cached, text)
            assert (said(first), said(second)) == ("miss", "hit")
            assert plain.content == first.content == second.content
            assert second.headers["x-millis-rung"] == "fake"
            assert "run;dur=0.000" in second.headers["server-timing"]
        assert said(ask(cached, "x")) == "hit", "a list of one text is the same question"
        assert said(ask(cached, ["x", TEXT])) == "miss"
        assert said(ask(cached, TEXT + " ")) == "miss"
        for wrong in ("", ["x"] * 300):
            assert ask(cached, wrong).status_code in (413, 422)
        counted = httpx.get(f"{cached.url}/metrics").text
    assert 'millis_cache_hits_total{model="fake"} 4.0' in counted
    assert 'millis_cache_misses_total{model="fake"} 5.0' in counted
    size = next(line for line in counted.splitlines() if line.startswith("millis_cache_bytes "))
    assert 1000 < float(size.split()[1]) < 10_000


def test_a_kept_answer_comes_within_its_deadline_or_not_at_all(tmp_path: Path) -> None:
    with Supervisor(ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, cache_bytes=1_000_000)) as server:
        assert said(ask(server)) == "miss"
        late = httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}, headers={"X-Deadline-Ms": "0.001"})
        assert (late.status_code, late.json()["type"]) == (503, "/problems/deadline-too-short")
        assert said(ask(server)) == "hit"


def test_triton_clients_and_ours_share_what_is_kept(tmp_path: Path) -> None:
    with Supervisor(ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, cache_bytes=1_000_000)) as server:
        document = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}
        answers = [httpx.post(f"{server.url}/v2/models/fake/infer", json=document) for _ in range(2)]
        assert [said(one) for one in answers] == ["miss", "hit"]
        assert answers[0].content == answers[1].content
        assert said(ask(server)) == "hit"


def test_nobody_is_answered_from_what_another_key_asked(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    one, other, neither = (file.create(name="", scopes=[scope])[0] for scope in ("ner", "ner", "metrics"))
    settings = ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, keys=str(file.path), cache_bytes=1_000_000)
    with Supervisor(settings) as server:
        assert [said(ask(server, key=key)) for key in (one, one, other, other)] == ["miss", "hit", "miss", "hit"]
        assert ask(server, key=neither).status_code == 403
        assert ask(server).status_code == 401


@pytest.mark.slow
def test_a_lesser_rungs_answer_goes_only_to_who_asked_for_that_rung(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=40.0, faster_ms=1.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, cache_bytes=1_000_000)) as server:
        hurried = httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}, headers={"X-Deadline-Ms": "30"})
        assert (hurried.headers["x-millis-rung"], said(hurried)) == ("fake-fast", "miss")
        strict = ask(server, fallback=False)
        assert (strict.headers["x-millis-rung"], said(strict)) == ("fake", "miss"), "not what the faster rung answered"
        pinned = ask(server, rung="fake-fast")
        assert (pinned.headers["x-millis-rung"], said(pinned)) == ("fake-fast", "hit")
        assert pinned.json()["quality"] == {"F1": 85.0}
        again = httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}, headers={"X-Deadline-Ms": "30"})
        assert (again.headers["x-millis-rung"], said(again)) == ("fake", "hit"), "the better answer is there, and in time"


@pytest.mark.slow
def test_without_time_a_lesser_answer_is_not_kept_in_the_better_ones_place(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=40.0, faster_ms=1.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, cache_bytes=1_000_000)) as server:
        for _ in range(2):
            hurried = httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}, headers={"X-Deadline-Ms": "30"})
            assert said(hurried) == "miss"
        assert ask(server).headers["x-millis-rung"] == "fake"


def test_options_and_models_are_told_apart(tmp_path: Path) -> None:
    paths = tuple(str(make_fake_bundle(tmp_path, name=name, task="classify").path) for name in ("one", "two"))
    with Supervisor(ServeSettings(bundles=paths, port=0, cache_bytes=1_000_000)) as server:
        for options in ({"model": "one"}, {"model": "two"}, {"model": "one", "top_k": 1}, {"model": "one", "top_k": 2}):
            answers = [httpx.post(f"{server.url}/v1/classify", json={"input": TEXT, **options}) for _ in range(2)]
            assert [said(one) for one in answers] == ["miss", "hit"]
            assert answers[0].content == answers[1].content


@pytest.mark.slow
@pytest.mark.parametrize("threads", [0, 2])
def test_the_same_question_from_many_at_once_is_answered_alike(tmp_path: Path, threads: int) -> None:
    bundle = make_fake_bundle(tmp_path, threads=threads)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, cache_bytes=20_000)) as server, ThreadPoolExecutor(8) as pool:
        texts = [f"maria {i % 40}" for i in range(800)]
        with httpx.Client(base_url=server.url) as client:
            answers = list(pool.map(lambda text: client.post("/v1/ner", json={"input": text}), texts))
        by_text = {text: answers[place].content for place, text in enumerate(texts)}
        assert all(one.content == by_text[text] for one, text in zip(answers, texts, strict=True))
        size = next(line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if line.startswith("millis_cache_bytes "))
        assert float(size.split()[1]) <= 20_000


def test_the_least_recently_used_go_first_and_the_size_is_honest() -> None:
    def asked(i: int) -> Asked:
        return Asked("", "seal", {}, [f"text {i}"])

    cache = AnswerCache(1_000_000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(6000):
        cache.keep(asked(i), [{"entities": [f"{i:04d}" * 20]}], rung="a")
        cache.find(asked(0), rung="a")
    took = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert cache.find(asked(0), rung="a") is not None
    assert cache.find(asked(1), rung="a") is None
    assert cache.find(asked(5999), rung="a") is not None
    assert cache.find(asked(5999), rung="b") is None
    assert 900_000 < cache.n_bytes <= 1_000_000
    assert took < 1.1 * cache.n_bytes
    cache.keep(asked(2), [{"entities": ["x" * 2_000_000]}], rung="a")
    assert cache.find(asked(2), rung="a") is None
    assert cache.find(asked(0), rung="a") is not None, "what does not fit pushes nobody out"


def test_a_size_that_cannot_be_is_refused() -> None:
    for size in (-1, 10**12):
        with pytest.raises(InvalidValue, match="cache"):
            ServeSettings(bundles=("a",), cache_bytes=size)


def test_a_size_is_read_with_its_unit() -> None:
    assert [read_bytes(one) for one in ("0", "64MB", "1.5 GiB", "10 kB", 7)] == [0, 64_000_000, 1_610_612_736, 10_000, 7]
    for wrong in ("", "MB", "-1", "64 PB", "nan", "1e9", "64mb"):
        with pytest.raises(InvalidValue, match="size cannot be"):
            read_bytes(wrong)
