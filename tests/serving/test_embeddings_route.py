"""/v1/embeddings, with OpenAI's own client, and /v1/search, through the real server."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

import millis
from fitting import run_millis
from making import forge, make_fake_bundle
from millis.errors import InvalidBundle, InvalidValue
from millis.retrieving import add_passages, build_index
from millis.retrieving.passages import Passage
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

PASSAGES = [
    Passage(id="r1", text="refund takes five days", fields={"topic": "refund"}),
    Passage(id="o1", text="order leaves lisbon", fields={"topic": "order"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    make_fake_bundle(folder, name="emb", task="embedding", buckets=(8, 32), delay_ms=1.0, faster_ms=0.0)
    build_index(folder / "faq.index", passages=PASSAGES, model=folder / "emb.millis")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Supervisor]:
    settings = ServeSettings(
        bundles=(str(folder / "emb.millis"),), indexes=(str(folder / "faq.index"),), port=0, cache_bytes=1_000_000
    )
    with Supervisor(settings) as running:
        yield running


@pytest.fixture
def client(server: Supervisor) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openais_client_reads_the_vectors_in_both_encodings(client: openai.OpenAI, folder: Path) -> None:
    texts = ["hello world", "maria wrote from lisbon", "x " * 100]
    wanted = millis.load(folder / "emb.millis")(texts)
    for encoding in (openai.omit, "float", "base64"):
        answer = client.embeddings.create(model="emb", input=texts, encoding_format=encoding)
        assert [one.index for one in answer.data] == [0, 1, 2]
        for got, want in zip(answer.data, wanted, strict=True):
            vector = got.embedding
            if isinstance(vector, str):  # asked for by name, the client leaves it as it is
                vector = np.frombuffer(base64.b64decode(vector), "<f4")
            assert np.allclose(vector, want["embedding"], atol=1e-7)
        assert answer.usage.prompt_tokens == sum(one["tokens"] for one in wanted)
        assert answer.model == "emb"


def test_prefixes_stand_before_queries_and_passages_wherever_they_come(folder: Path, tmp_path: Path) -> None:
    plain = millis.load(folder / "emb.millis")
    bundle = make_fake_bundle(tmp_path, name="e5", task="embedding", buckets=(8, 32))
    forge(bundle, task_settings={**bundle.manifest.task_settings, "query_prefix": "hello ", "passage_prefix": "world "})
    model = millis.load(bundle.path)
    build_index(tmp_path / "e5.index", passages=PASSAGES, model=bundle.path)
    settings = ServeSettings(bundles=(str(bundle.path),), indexes=(str(tmp_path / "e5.index"),), port=0)
    with Supervisor(settings) as server:
        for input_type, before in (("query", "hello "), ("passage", "world ")):
            (wanted,) = plain([before + "refund x"])
            assert model("refund x", input_type=input_type) == wanted
            for route in ("embeddings", "embedding"):
                asked = {"input": "refund x", "input_type": input_type}
                answer = httpx.post(f"{server.url}/v1/{route}", json=asked).json()
                assert answer["data" if route == "embeddings" else "results"][0]["embedding"] == wanted["embedding"]
        assert model("refund x") == plain("hello refund x"), "what says nothing is a query"
        found = httpx.post(f"{server.url}/v1/search", json={"query": "x", "top_k": 2}).json()["results"]
        query = plain("hello x")["embedding"]
        cosines = {one.id: np.dot(query, plain("world " + one.text)["embedding"]) for one in PASSAGES}
        assert {one["id"]: one["cosine"] for one in found} == pytest.approx(cosines, abs=2e-3)
        wrong = httpx.post(f"{server.url}/v1/embeddings", json={"input": "x", "input_type": "title"})
        assert (wrong.status_code, "input_type" in wrong.json()["error"]["message"]) == (422, True)
    with pytest.raises(InvalidValue, match="input_type cannot be 'title'"):
        model("x", input_type="title")
    with pytest.raises(InvalidValue, match="this task has no option 'kind': it has dimensions, input_type"):
        model("x", kind="query")


def test_a_vector_is_cut_to_the_size_asked_for(client: openai.OpenAI) -> None:
    vector = client.embeddings.create(model="emb", input="hello", dimensions=8).data[0].embedding
    assert len(vector) == 8
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.embeddings.create(model="emb", input="hello", dimensions=9)
    assert "dimensions cannot be 9 with this model: choose one of 16, 8" in raised.value.message


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": [15339, 1917]}, 422, "token ids came as input"),
        ({"input": [[15339], [1917]]}, 422, "token ids came as input"),
        ({"input": 3}, 422, "token ids came as input"),
        ({"input": None}, 422, "input is no text and no list of texts"),
        ({"input": ["a", None]}, 422, "input is no text and no list of texts"),
        ({"input": ""}, 422, "no text came"),
        ({"input": []}, 422, "no text came"),
        ({"input": ["a", ""]}, 422, "text 1 of the list is empty"),
        ({"input": ["a"] * 10_000}, 413, "10,000 texts came in one request; at most 256 are allowed"),
        ({"input": "a" * 60_000}, 413, "60,000 characters came"),
        ({"input": "a", "encoding_format": "hex"}, 422, "encoding_format"),
        ({"input": "a", "dimensions": 0}, 422, "dimensions"),
        ({"input": "a", "dimension": 8}, 422, "the keys known are input, model, encoding_format, dimensions"),
        ({"input": "a", "model": "other"}, 404, "choose one of emb"),
        ({"input": "a", "rung": "other"}, 404, "fake"),
    ],
)
def test_bad_input_is_a_sentence(server: Supervisor, body: dict[str, object], status: int, said: str) -> None:
    response = httpx.post(f"{server.url}/v1/embeddings", json=body)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert said in response.json()["error"]["message"]
    assert httpx.post(f"{server.url}/v1/embeddings", json={"input": "a"}).status_code == 200


def test_deadline_rung_and_cache_are_as_for_every_task(server: Supervisor) -> None:
    def ask(**options: object) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/embeddings", json={"input": "hello cache", **options})

    assert ask().headers["x-millis-cache"] == "miss"
    hit = ask()
    assert hit.headers["x-millis-cache"] == "hit"
    assert hit.json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert ask(rung="fake-fast").headers["x-millis-rung"] == "fake-fast"
    late = httpx.post(f"{server.url}/v1/embeddings", json={"input": ["a b c"] * 50}, headers={"x-deadline-ms": "0.001"})
    assert late.status_code in (503, 504)
    timing = hit.headers["server-timing"]
    assert all(stage in timing for stage in ("parse", "queue", "tokenize", "run", "decode", "write"))


def search(server: Supervisor, **body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/search", json=body)


def test_search_finds_passages_and_says_where_the_time_went(server: Supervisor) -> None:
    response = search(server, query="refund takes five days")
    document = response.json()
    assert [one["id"] for one in document["results"]] == ["r1", "o1"]
    assert (document["index"], document["model"], document["rung"]) == ("faq", "emb", "fake")
    stages = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert stages == ["parse", "queue", "tokenize", "run", "decode", "write", "filter", "vectors", "words", "fuse"]
    assert [one["id"] for one in search(server, query="refund", filter={"topic": "order"}).json()["results"]] == ["o1"]
    assert len(search(server, query="refund", top_k=1, index="faq").json()["results"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "query"),
        ({"query": ""}, 422, "no text came"),
        ({"query": "a", "top_k": 0}, 422, "top_k"),
        ({"query": "a", "top_k": 101}, 422, "top_k"),
        ({"query": "a", "filter": {"colour": 1}}, 422, "the fields are topic"),
        ({"query": "a", "filter": {"topic": {"above": 1}}}, 422, "the filter on 'topic' is none"),
        ({"query": "a", "filter": 3}, 422, "filter"),
        ({"query": "a", "index": "other"}, 404, "choose one of faq"),
        ({"query": "a", "k": 3}, 422, "the keys known are query, top_k, filter, index"),
        ({"query": "a" * 60_000}, 413, "60,000 characters came"),
    ],
)
def test_a_bad_search_is_a_sentence(server: Supervisor, body: dict[str, object], status: int, said: str) -> None:
    response = search(server, **body)
    assert response.status_code == status
    assert said in response.json()["detail"]


def test_a_search_has_a_deadline_too(server: Supervisor) -> None:
    assert httpx.post(f"{server.url}/v1/search", json={"query": "refund now"}, headers={"x-deadline-ms": "0.001"}).status_code in (503, 504)
    assert httpx.post(f"{server.url}/v1/search", json={"query": "refund"}, headers={"x-deadline-ms": "5000"}).status_code == 200


def test_openais_client_is_told_the_rung_that_would_fit(folder: Path, tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, name="emb", task="embedding", buckets=(8, 32), delay_ms=400.0, faster_ms=1.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        hurried = {"model": "emb", "input": "hello", "extra_headers": {"X-Deadline-Ms": "250"}}
        with client, pytest.raises(openai.InternalServerError, match="ask the rung fake-fast, which would fit") as refused:
            client.embeddings.create(**hurried)  # type: ignore[arg-type]
        assert refused.value.code == "deadline_too_short"
        assert "retry-after" not in refused.value.response.headers
        rung = refused.value.response.headers["x-millis-fits"]
        asked = {"input": "hello", "rung": rung}
        assert httpx.post(f"{server.url}/v1/embeddings", json=asked, headers={"X-Deadline-Ms": "250"}).status_code == 200


def test_the_interface_is_described(server: Supervisor) -> None:
    described = httpx.get(f"{server.url}/openapi.json").json()
    assert {"/v1/embedding", "/v1/embeddings", "/v1/search"} <= described["paths"].keys()
    assert "filter" in described["components"]["schemas"]["SearchRequest"]["properties"]


def test_the_plain_and_the_open_inference_routes_answer_too(server: Supervisor, folder: Path) -> None:
    wanted = millis.load(folder / "emb.millis")("hello")
    assert httpx.post(f"{server.url}/v1/embedding", json={"input": "hello"}).json()["results"] == [wanted]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hello"]}
    answer = httpx.post(f"{server.url}/v2/models/emb/infer", json={"inputs": [tensor], "parameters": {"dimensions": 8}}).json()
    assert len(json.loads(answer["outputs"][0]["data"][0])["embedding"]) == 8


def test_a_server_sees_what_the_command_line_changed(server: Supervisor, folder: Path) -> None:
    add_passages(folder / "faq.index", passages=[Passage(id="n1", text="hello garcia")], model=folder / "emb.millis")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = [one["id"] for one in search(server, query="hello garcia").json()["results"]]
        if found[0] == "n1":
            break
        time.sleep(0.1)
    assert found[0] == "n1"


def test_an_index_of_another_model_is_refused_when_the_server_starts(folder: Path, tmp_path: Path) -> None:
    other = make_fake_bundle(tmp_path, name="other", task="embedding", delay_ms=0.1)
    settings = ServeSettings(bundles=(str(other.path),), indexes=(str(folder / "faq.index"),), port=0)
    with pytest.raises(InvalidBundle, match=r"index faq\.index was built by model emb, and none of those served here \(other\)"):
        Supervisor(settings).__enter__()
    twice = (str(folder / "faq.index"),) * 2
    with pytest.raises(InvalidValue, match="two indexes are named faq"):
        Supervisor(ServeSettings(bundles=(str(folder / "emb.millis"),), indexes=twice, port=0)).__enter__()


def test_asking_shows_a_vector_and_how_alike_two_texts_are(server: Supervisor, folder: Path) -> None:
    one, other = millis.load(folder / "emb.millis")(["hello world", "maria wrote"])
    cosine = f"cosine {np.dot(one['embedding'], other['embedding']):.4f}"
    begins = "16 numbers: " + ", ".join(f"{number:.4f}" for number in one["embedding"][:5])
    for target in (server.url, folder / "emb.millis"):
        shown = run_millis("ask", target, "hello world", "maria wrote")
        assert shown.returncode == 0, shown.stderr
        lines = shown.stdout.splitlines()
        assert (lines[0], lines[2]) == (f"{begins}, ...", cosine)
        assert len(lines) == 4


def test_asking_an_index_lists_passages(server: Supervisor, folder: Path) -> None:
    shown = run_millis("ask", server.url, "refund takes five days", "--index", "faq")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[0].split("  ")[1:] == ["r1", "refund takes five days"]
    assert "vectors" in shown.stdout.splitlines()[-1]
    with millis.Client(server.url) as client:
        assert client.search("refund", filter={"topic": "nothing"}).results == []
        with pytest.raises(InvalidValue, match="deadline_ms cannot be 0"):
            client.search("refund", deadline_ms=0)

    async def search_too() -> list[str]:
        async with millis.AsyncClient(server.url) as client:
            return [one["id"] for one in (await client.search("refund", index="faq", top_k=1)).results]

    assert asyncio.run(search_too()) == ["r1"]
    wrong = [run_millis("ask", target, "refund", "--index", "faq2") for target in (server.url, folder / "emb.millis")]
    assert [one.returncode for one in wrong] == [2, 2]
    assert "choose one of faq" in wrong[0].stderr
    assert "is no server" in wrong[1].stderr


def test_the_command_line_builds_adds_deletes_and_tells(folder: Path, tmp_path: Path) -> None:
    rows, more = tmp_path / "faq.jsonl", tmp_path / "more.jsonl"
    rows.write_text('{"id": "a", "q": "hello", "lang": "en"}\n{"q": "order"}\n')
    more.write_text('{"id": "b", "q": "refund"}\n')
    index, model = tmp_path / "faq.index", folder / "emb.millis"
    done = run_millis("index", "build", rows, "--model", model, "-o", index, "--text", "q")
    assert done.returncode == 0, done.stderr
    assert "2 added; 2 passages" in done.stdout
    assert json.loads(run_millis("index", "add", index, more, "--model", model, "--json").stdout)["passages"] == 3
    assert run_millis("index", "delete", index, "b").returncode == 0
    said = json.loads(run_millis("index", "info", index, "--json").stdout)
    assert (said["passages"], said["fields"], said["model"], said["text_key"]) == (2, ["lang"], "emb", "q")
    wrong = run_millis("index", "delete", index, "nobody")
    assert (wrong.returncode, "has no passage 'nobody'" in wrong.stderr) == (2, True)
