"""/v1/qa through the real server: both ways to ask, long and bad input, the other protocols, the descriptions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import millis
from fitting import run_millis
from making import make_fake_bundle
from millis.asking import Client
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

ASKED = {"question": "who wrote from lisbon", "context": "maria garcia wrote from lisbon about her order, hello world"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake_bundle(tmp_path_factory.mktemp("qa"), task="qa", buckets=(16, 32)).path


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Supervisor]:
    with Supervisor(ServeSettings(bundles=(str(bundle),), port=0)) as running:
        yield running


def ask(server: Supervisor, body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/qa", json=body)


def test_a_question_is_asked_by_its_parts_or_as_input_and_in_lists(server: Supervisor, bundle: Path) -> None:
    wanted = millis.load(bundle)(ASKED)
    assert set(wanted) == {"answer", "start", "end", "score", "answers"}
    assert ask(server, ASKED).json()["results"] == [wanted]
    assert ask(server, {"input": ASKED}).json()["results"] == [wanted]
    assert ask(server, {"input": [ASKED, ASKED]}).json()["results"] == [wanted, wanted]
    assert len(ask(server, {**ASKED, "top_k": 1}).json()["results"][0]["answers"]) == 1
    for one in wanted["answers"]:
        assert ASKED["context"][one["start"] : one["end"]] == one["answer"]


def test_a_context_is_read_to_its_end_up_to_the_limit(server: Supervisor, bundle: Path) -> None:
    context = "hello world one two three " * 4000
    asked = {"question": "who wrote", "context": context[:49_900]}
    assert ask(server, asked).json()["results"] == [millis.load(bundle)(asked)]
    response = ask(server, {"question": "who wrote", "context": context[:100_000]})
    assert response.status_code == 413
    assert "100,009 characters came in one request; 50,000 are allowed" in response.json()["detail"]
    assert ask(server, ASKED).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"question": "who"}, 422, "no context came"),
        ({"context": "x"}, 422, "no question came"),
        ({}, 422, "no question and no context came"),
        ({**ASKED, "input": ASKED}, 422, "input came, and beside it"),
        ({**ASKED, "context": ""}, 422, "context is empty: send"),
        ({**ASKED, "context": " \n\u200b"}, 422, "context is blank: send"),
        ({"input": [ASKED, {**ASKED, "question": ""}]}, 422, "question is empty in input[1]"),
        ({"input": []}, 422, "no text"),
        ({"input": "who wrote"}, 422, "Expected `object"),
        ({"input": {**ASKED, "more": "x"}}, 422, "not known"),
        ({**ASKED, "question": 3}, 422, "Expected `str`"),
        ({**ASKED, "top_k": 0}, 422, "top_k"),
        ({"input": [ASKED] * 300}, 413, "300 texts"),
    ],
)
def test_what_is_no_question_gets_a_sentence(server: Supervisor, body: object, status: int, said: str) -> None:
    response = ask(server, body)
    assert response.status_code == status
    assert said in response.json()["detail"]
    assert ASKED["context"] not in response.text
    assert ask(server, ASKED).status_code == 200


def test_the_open_inference_protocol_carries_questions_as_documents(server: Supervisor, bundle: Path) -> None:
    document = msgspec.json.encode(ASKED).decode()
    path = f"{server.url}/v2/models/{bundle.stem}/infer"
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [document]}]}
    answer = httpx.post(path, json=body).json()
    assert msgspec.json.decode(answer["outputs"][0]["data"][0]) == millis.load(bundle)(ASKED)
    body["inputs"][0]["data"] = ["who wrote"]
    response = httpx.post(path, json=body)
    assert response.status_code == 422
    assert "question, context" in response.json()["error"]


def test_the_client_and_the_command_line_ask_it(server: Supervisor, bundle: Path) -> None:
    wanted = millis.load(bundle)(ASKED)
    with Client(server.url) as client:
        assert client.qa(**ASKED).results == [wanted]
        assert client.ask("qa", [ASKED, ASKED]).results == [wanted, wanted]
    for target in (server.url, str(bundle)):
        done = run_millis("ask", target, ASKED["question"], "--context", ASKED["context"])
        assert done.returncode == 0, done.stderr
        assert wanted["answers"][0]["answer"] in done.stdout
    done = run_millis("ask", bundle, "who wrote")
    assert done.returncode == 2
    assert "answers questions from a text: give it with --context TEXT" in done.stderr


def test_the_descriptions_say_so(server: Supervisor) -> None:
    described = httpx.get(f"{server.url}/openapi.json").json()
    schemas: dict[str, Any] = described["components"]["schemas"]
    assert {"input", "question", "context", "top_k"} <= set(schemas["QaRequest"]["properties"])
    assert schemas["Question"]["required"] == ["question", "context"]
    (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert set(model["example"]) == {"question", "context"}
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_proof_asks_questions_of_the_lengths_of_the_data(bundle: Path) -> None:
    done = run_millis("prove", bundle, "--requests", "60", "--json")
    assert done.returncode == 4, f"60 are too few to decide: {done.stderr}"
    assert json.loads(done.stdout)["certificate"]["measurement"]["statuses"] == {"200": 60}
