"""/v1/rerank through the real server: both forms, as many documents as there is time for, bad input."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest

import millis
from making import make_fake_bundle
from millis.asking import Client
from millis.backends import Batching
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

ASKED = {"query": "who wrote", "documents": ["maria garcia wrote from lisbon", "hello world", "eu rejects german call"]}
RUN_MS = 10.0


RUN_BY: dict[str, dict[str, Any]] = {
    "loop": {}, "threads": {"threads": 1}, "device": {"batching": Batching(max_rows=2, max_tokens=64)},
    "together": {"rows": 2},
}  # fmt: skip


@pytest.fixture(scope="module", params=RUN_BY.values(), ids=RUN_BY)
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("rerank")
    bundle = make_fake_bundle(folder, task="rerank", buckets=(16, 32), delay_ms=RUN_MS, **request.param)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as running:
        yield running


def ask(server: Supervisor, body: object, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/rerank", json=body, headers=headers)


def test_one_query_by_its_parts_is_answered_as_rerankers_answer(server: Supervisor, tmp_path: Path) -> None:
    model = millis.load(make_fake_bundle(tmp_path, task="rerank", buckets=(16, 32)).path)
    wanted = model(ASKED)
    answer = ask(server, ASKED).json()
    assert answer["results"] == wanted["ranking"]
    assert answer["scored"] == 3
    assert ask(server, {"input": [ASKED, ASKED]}).json()["results"] == [wanted, wanted]
    (best,) = ask(server, {**ASKED, "top_n": 1, "return_documents": True}).json()["results"]
    assert best["document"] == {"text": ASKED["documents"][best["index"]]}
    with Client(server.url) as client:
        assert client.rerank(**ASKED).results == [wanted]  # type: ignore[arg-type]


def test_documents_of_all_lengths_keep_their_places(server: Supervisor, tmp_path: Path) -> None:
    model = millis.load(make_fake_bundle(tmp_path, task="rerank", buckets=(16, 32)).path)
    documents = [" ".join(["maria garcia wrote"] * n + ["from lisbon"] * (n % 2)) for n in (5, 1, 8, 2, 1, 7, 3)]
    asked = {"query": "who wrote", "documents": documents}
    answer = ask(server, asked).json()
    assert answer["results"] == model(asked)["ranking"]
    assert answer["scored"] == 7


def test_with_a_deadline_as_many_documents_are_scored_as_fit_and_it_says_how_many(server: Supervisor) -> None:
    many = {"query": "who wrote", "documents": ["maria garcia wrote"] * 60}
    for _ in range(8):  # it learns how long a window takes here
        ask(server, ASKED)
    allowed_ms = 30 * RUN_MS
    response = ask(server, many, **{"X-Deadline-Ms": str(allowed_ms)})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert 1 <= answer["scored"] < 60
    assert len(answer["results"]) == answer["scored"]
    assert {one["index"] for one in answer["results"]} == set(range(answer["scored"]))
    took_ms = sum(float(part.split("dur=")[1]) for part in response.headers["server-timing"].split(", "))
    assert took_ms < allowed_ms
    assert ask(server, many).json()["scored"] == 60, "without one all are"


def test_several_queries_share_a_deadline_and_each_has_documents_scored(server: Supervisor) -> None:
    many = {"query": "who wrote", "documents": ["maria garcia wrote"] * 40}
    for _ in range(8):  # it learns how long a window takes here
        ask(server, ASKED)
    response = ask(server, {"input": [many] * 3}, **{"X-Deadline-Ms": str(30 * RUN_MS)})
    assert response.status_code == 200, response.text
    assert all(one["scored"] >= 1 for one in response.json()["results"])
    assert sum(one["scored"] for one in response.json()["results"]) < 120


def test_who_reranks_under_deadlines_all_day_has_as_many_scored_in_the_end_as_at_first(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, task="rerank", buckets=(16, 32), delay_ms=2.0)
    many = {"query": "who wrote", "documents": ["maria garcia wrote"] * 60}
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as running, httpx.Client() as client:
        asked = {"url": f"{running.url}/v1/rerank", "json": many, "headers": {"X-Deadline-Ms": "40"}}
        answers = [client.post(**asked).json() for _ in range(70)]
    scored = [one.get("scored", 0) for one in answers]
    assert median(scored[-15:]) >= 0.8 * median(scored[5:20]), scored


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"query": "who"}, 422, "no documents came"),
        ({"documents": ["x"]}, 422, "no query came"),
        ({**ASKED, "documents": []}, 422, "documents is empty: send some text"),
        ({**ASKED, "documents": ["x", ""]}, 422, "documents[1] is blank"),
        ({"query": " ", "documents": ["x"]}, 422, "query is blank"),
        ({**ASKED, "documents": "x"}, 422, "Expected `array`"),
        ({**ASKED, "top_n": 0}, 422, "top_n"),
        ({**ASKED, "documents": ["x"] * 300}, 413, "300 texts"),
    ],
)
def test_what_is_no_ranking_gets_a_sentence(server: Supervisor, body: object, status: int, said: str) -> None:
    response = ask(server, body)
    assert response.status_code == status
    assert said in response.json()["detail"]
