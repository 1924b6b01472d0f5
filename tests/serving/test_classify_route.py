"""/v1/classify through the real server: the answer's forms, bad options, and the descriptions."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

import millis
from making import make_fake_bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake_bundle(tmp_path_factory.mktemp("classify"), task="classify", buckets=(8, 32)).path


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    ner = make_fake_bundle(tmp_path_factory.mktemp("ner"), name="names").path
    with Supervisor(ServeSettings(bundles=(str(bundle), str(ner)), port=0)) as running:
        yield running


def ask(server: Supervisor, **body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/classify", json={"input": "maria wrote from lisbon", **body})


def test_a_served_answer_is_the_loaded_models(server: Supervisor, bundle: Path) -> None:
    model = millis.load(bundle)
    for text in ("maria wrote from lisbon", "x", "hello world " * 40):
        assert ask(server, input=text).json()["results"] == [model(text)]
    assert len(ask(server, input=["x", "y"]).json()["results"]) == 2


def test_the_client_chooses_the_form(server: Supervisor) -> None:
    whole = ask(server).json()["results"][0]
    assert whole["label"] in ("complaint", "order", "refund")
    assert len(whole["scores"]) == 3
    assert ask(server, output="labels").json()["results"] == [{"label": whole["label"]}]
    assert len(ask(server, top_k=1).json()["results"][0]["scores"]) == 1
    said = ask(server, output="<{label}>").json()["results"][0]
    assert said == {"text": f"<{whole['label']}>"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"top_k": 0}, "top_k"), ({"top_k": "many"}, "top_k"), ({"output": ""}, "output"), ({"output": 3}, "output"),
        ({"output": "x" * 1001}, "output"), ({"output": "label"}, "give scores, labels, or a template"), ({"topk": 3}, "the keys known are input, model, rung, fallback, top_k"),
    ],
)  # fmt: skip
def test_a_bad_option_is_a_problem(server: Supervisor, body: dict[str, object], said: str) -> None:
    response = ask(server, **body)
    assert response.status_code == 422
    assert said in response.json()["detail"]
    assert ask(server).status_code == 200


def test_options_of_one_task_are_no_options_of_another(server: Supervisor) -> None:
    response = httpx.post(f"{server.url}/v1/ner", json={"input": "maria", "top_k": 3})
    assert response.status_code == 422


def test_the_descriptions_say_so(server: Supervisor) -> None:
    described = httpx.get(f"{server.url}/openapi.json").json()
    properties = described["components"]["schemas"]["ClassifyRequest"]["properties"]
    assert {"input", "top_k", "output"} <= set(properties)
    assert described["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ClassifyRequest"
    }
    assert "TaskRequest" not in described["components"]["schemas"], "each task has a request of its own"
    models = {model["id"]: model for model in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert models["fake"]["labels"] == ["complaint", "order", "refund"]


def test_ask_shows_label_and_scores(bundle: Path) -> None:
    from fitting import run_millis

    shown = run_millis("ask", bundle, "maria wrote from lisbon")
    label = shown.stdout.splitlines()[0]
    assert label in ("complaint", "order", "refund")
    assert shown.stdout.splitlines()[1].split()[0] == label
    document = msgspec.json.decode(run_millis("ask", bundle, "maria wrote", "--json").stdout)
    assert document["results"][0]["label"]
