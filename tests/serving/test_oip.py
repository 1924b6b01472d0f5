"""The Open Inference Protocol through the real server, by Triton's own client and by hand."""

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from making import make_fake_bundle
from millis.security.keys import KeyFile
from millis.serving.settings import Limits, ServeSettings
from millis.serving.supervisor import Supervisor

TEXTS = ["maria garcia of northwind wrote 😀 from 上海", "eu rejects german call", "x"]
INFER = "/v2/models/fake/infer"


@pytest.fixture
def triton(server: Supervisor) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def tensor(texts: list[str], *, binary: bool = True, shape: tuple[int, ...] | None = None) -> tritonclient.http.InferInput:
    array = np.array(texts if not binary else [text.encode() for text in texts], dtype=object).reshape(shape or (len(texts),))
    made = tritonclient.http.InferInput("text", list(array.shape), "BYTES")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def plain(server: Supervisor, texts: list[str], **options: object) -> list[object]:
    return httpx.post(f"{server.url}/v1/ner", json={"input": texts, **options}).json()["results"]


def ask(server: Supervisor, document: object, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{INFER}", json=document, headers=headers)


def texts_of(*texts: str) -> dict[str, object]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}


def assert_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    assert set(said) == {"error"}
    assert len(said["error"]) > 20


def test_tritons_client_learns_what_is_served(triton: tritonclient.http.InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("fake")
    assert triton.is_model_ready("fake", "1")
    assert not triton.is_model_ready("other")
    assert not triton.is_model_ready("fake", "2")
    server = triton.get_server_metadata()
    assert server["name"] == "millis"
    assert "binary_tensor_data" in server["extensions"]
    model = triton.get_model_metadata("fake", "1")
    assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert model["outputs"] == [{"name": "result", "datatype": "BYTES", "shape": [-1]}]
    assert model["versions"] == ["1"]


@pytest.mark.parametrize("sends_binary", [True, False])
@pytest.mark.parametrize("reads_binary", [True, False, None])
def test_tritons_client_gets_what_everybody_gets(
    server: Supervisor, triton: tritonclient.http.InferenceServerClient, sends_binary: bool, reads_binary: bool | None
) -> None:
    outputs = None if reads_binary is None else [tritonclient.http.InferRequestedOutput("result", binary_data=reads_binary)]
    said = triton.infer("fake", [tensor(TEXTS, binary=sends_binary)], outputs=outputs, request_id="mine", timeout=2_000_000)
    got = [json.loads(one) for one in said.as_numpy("result")]
    assert got == plain(server, TEXTS)
    assert said.get_response()["id"] == "mine"
    assert (said.get_response()["model_name"], said.get_response()["model_version"]) == ("fake", "1")
    assert said.get_response()["parameters"]["rung"] == "fake"


def test_the_answer_has_the_shape_of_the_question(server: Supervisor, triton: tritonclient.http.InferenceServerClient) -> None:
    texts = [*TEXTS, "maria"]
    said = triton.infer("fake", [tensor(texts, shape=(2, 2))], model_version="1")
    assert said.as_numpy("result").shape == (2, 2)
    assert [json.loads(one) for one in said.as_numpy("result").flatten()] == plain(server, texts)
    nested = ask(server, {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": [["maria"], ["x"]]}]})
    assert nested.json()["outputs"][0]["shape"] == [2, 1]


def test_tritons_asynchronous_client_works_too(server: Supervisor) -> None:
    async def send() -> object:
        async with tritonclient.http.aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
            said = await client.infer("fake", [tensor(TEXTS)])
            return [json.loads(one) for one in said.as_numpy("result")]

    assert asyncio.run(send()) == plain(server, TEXTS)


def test_tritons_client_reads_what_is_wrong(triton: tritonclient.http.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="not served here: choose one of fake") as unknown:
        triton.infer("other", [tensor(TEXTS)])
    assert unknown.value.status() == "404"
    with pytest.raises(InferenceServerException, match="send some text"):
        triton.infer("fake", [tensor([""])])
    with pytest.raises(InferenceServerException, match="no rung of that name"):
        triton.infer("fake", [tensor(TEXTS)], parameters={"rung": "other"})
    with pytest.raises(InferenceServerException, match="compressed"):
        triton.infer("fake", [tensor(TEXTS)], request_compression_algorithm="gzip")


def binary(document: object, *elements: bytes) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(document).encode()
    return head + b"".join(elements), {"Inference-Header-Content-Length": str(len(head))}


def sized(size: object, n: int = 1) -> dict[str, object]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [n], "parameters": {"binary_data_size": size}}]}


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({}, 422), ([], 422), ({"inputs": []}, 422), ({"inputs": [texts_of("a"), texts_of("b")]}, 422), ({"inputs": [3]}, 422),
        ({"inputs": [texts_of("a") | {"name": "other"}]}, 422), ({"inputs": [texts_of("a") | {"datatype": "INT32"}]}, 422),
        ({"inputs": [texts_of("a") | {"shape": [2]}]}, 422), ({"inputs": [texts_of("a") | {"shape": []}]}, 422),
        ({"inputs": [texts_of("a") | {"shape": [-1]}]}, 422), ({"inputs": [texts_of("a") | {"shape": [2**62, 2**62]}]}, 422),
        ({"inputs": [texts_of("a") | {"shape": [0]}]}, 422), ({"inputs": [texts_of()]}, 422), ({"inputs": [texts_of("")]}, 422),
        ({"inputs": [texts_of("a") | {"data": [1]}]}, 422), ({"inputs": [texts_of("a") | {"data": [["a"]]}]}, 422),
        ({"inputs": [texts_of("a") | {"data": "a"}]}, 422), ({"inputs": [texts_of("a") | {"data": None}]}, 422),
        ({"inputs": [texts_of("a") | {"parameters": {"binary_data_size": 1}}]}, 422), (sized(5), 400),
        ({"inputs": [texts_of(*["a"] * 257)]}, 413), ({"inputs": [texts_of("a" * 50_001)]}, 413),
        ({"inputs": [texts_of("a")], "parameters": {"timeout": -1}}, 400), ({"inputs": [texts_of("a")], "parameters": {"timeout": 1.5}}, 400),
        ({"inputs": [texts_of("a")], "parameters": {"timeout": True}}, 400), ({"inputs": [texts_of("a")], "parameters": {"timeout": 10**18}}, 400),
        ({"inputs": [texts_of("a")], "parameters": {"input": "b"}}, 422), ({"inputs": [texts_of("a")], "parameters": {"model": "b"}}, 422),
        ({"inputs": [texts_of("a")], "parameters": {"priority": 1}}, 422), ({"inputs": [texts_of("a")], "parameters": {"fallback": 1}}, 422),
        ({"inputs": [texts_of("a")], "parameters": {"binary_data_output": 1}}, 422), ({"inputs": [texts_of("a")], "outputs": [{"name": "other"}]}, 422),
        ({"inputs": [texts_of("a")], "outputs": [{"name": "result", "parameters": {"classification": 2}}]}, 422), ({"inputs": [texts_of("a")], "id": 3}, 422),
        ({"inputs": [texts_of("a")], "parameters": {"rung": "other"}}, 404),
    ],
)  # fmt: skip
def test_what_is_not_of_the_protocol_gets_its_error(server: Supervisor, document: object, status: int) -> None:
    assert_error(ask(server, document), status)
    assert ask(server, {"inputs": [texts_of("maria")]}).status_code == 200


def element(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400), (b"\xff", {}, 400), (b"", {}, 400), (b"[" * 100_000, {}, 422),
        (b"{}", {"Inference-Header-Content-Length": "3"}, 400), (b"{}", {"Inference-Header-Content-Length": "-1"}, 400),
        (b"{}", {"Inference-Header-Content-Length": "9" * 4000}, 400), (b"{}", {"Inference-Header-Content-Length": "x"}, 400),
        (*binary(sized(5), element(b"ab")), 400), (*binary(sized(7), struct.pack("<I", 4) + b"abc"), 400),
        (*binary(sized(3), b"abc"), 400), (*binary(sized(6), element(b"\xff\xfe")), 400), (*binary(sized(7, 2), element(b"abc")), 422),
        (*binary({"inputs": [texts_of("a")]}, b"more"), 400), (*binary(sized(4 * 1000, 1000), element(b"") * 1000), 413),
    ],
)  # fmt: skip
def test_lengths_that_do_not_add_up_get_an_error(server: Supervisor, content: bytes, headers: dict[str, str], status: int) -> None:
    assert_error(httpx.post(f"{server.url}{INFER}", content=content, headers=headers), status)
    assert ask(server, {"inputs": [texts_of("maria")]}).status_code == 200


def test_unknown_routes_and_methods_have_the_protocols_error(server: Supervisor) -> None:
    assert_error(httpx.get(f"{server.url}/v2/nothing"), 404)
    assert_error(httpx.get(f"{server.url}/v2/models/other"), 404)
    assert_error(httpx.get(f"{server.url}/v2/models/other/ready"), 404)
    assert_error(httpx.post(f"{server.url}/v2/models/other/infer"), 404)
    assert_error(httpx.post(f"{server.url}/v2/models/fake/versions/2/infer"), 404)
    assert_error(httpx.get(f"{server.url}{INFER}"), 405)
    assert_error(httpx.post(f"{server.url}/v2"), 405)


def test_a_deadline_counts_however_it_is_said_but_once(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=20.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        in_time = {"inputs": [texts_of("maria")], "parameters": {"timeout": 900_000}}
        assert ask(server, in_time).status_code == 200
        assert ask(server, {"inputs": [texts_of("maria")], "parameters": {"timeout": 0}}).status_code == 200
        for refused in (
            ask(server, {"inputs": [texts_of("maria")], "parameters": {"timeout": 5000}}),
            ask(server, {"inputs": [texts_of("maria")]}, **{"X-Deadline-Ms": "5"}),
        ):
            assert_error(refused, 503)
            assert "Waiting does not help" in refused.json()["error"]
            assert "retry-after" not in refused.headers
        assert_error(ask(server, in_time, **{"X-Deadline-Ms": "500"}), 400)
        counted = httpx.get(f"{server.url}/metrics").text
    assert 'millis_refusals_total{reason="deadline-too-short",route="/v2/models/fake/infer"} 2.0' in counted
    assert 'millis_requests_total{route="/v2/models/fake/infer",status="200"} 2.0' in counted


def test_the_rung_is_said_and_may_be_pinned(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=5.0, faster_ms=1.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        said = ask(server, {"inputs": [texts_of("maria")], "parameters": {"rung": "fake-fast"}})
        assert said.json()["parameters"] == {"rung": "fake-fast", "F1": 85.0}
        assert said.headers["x-millis-rung"] == "fake-fast"
        assert "run;dur=" in said.headers["server-timing"]


def test_a_refusal_names_the_rung_that_would_fit(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=400.0, faster_ms=1.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        asked = {"inputs": [texts_of("maria")], "parameters": {"rung": "fake"}}
        refused = ask(server, asked, **{"X-Deadline-Ms": "250"})
        assert_error(refused, 503)
        assert "ask the rung fake-fast, which would fit" in refused.json()["error"]
        assert refused.headers["x-millis-fits"] == "fake-fast"
        client = tritonclient.http.InferenceServerClient(server.url.removeprefix("http://"))
        with client, pytest.raises(InferenceServerException, match="fake-fast"):
            client.infer("fake", [tensor(["maria"])], parameters={"fallback": False}, timeout=250_000)
        asked["parameters"] = {"rung": refused.headers["x-millis-fits"]}
        assert ask(server, asked, **{"X-Deadline-Ms": "250"}).status_code == 200


def test_a_tasks_own_options_are_parameters(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, name="labels", task="classify")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        url = f"{server.url}/v2/models/labels/infer"
        said = httpx.post(url, json={"inputs": [texts_of("maria", "x")], "parameters": {"top_k": 1}}).json()["outputs"][0]["data"]
        wanted = httpx.post(f"{server.url}/v1/classify", json={"input": ["maria", "x"], "top_k": 1}).json()["results"]
        assert [json.loads(one) for one in said] == wanted
        assert_error(httpx.post(url, json={"inputs": [texts_of("maria")], "parameters": {"top_k": 0}}), 422)


def test_the_gate_and_the_limits_are_those_of_every_route(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    ner, _ = file.create(name="", scopes=["ner"])
    other, _ = file.create(name="", scopes=["model:other"])
    slow, _ = file.create(name="", scopes=["model:fake"], rate_per_s=0.01)
    settings = ServeSettings(
        bundles=(str(make_fake_bundle(tmp_path).path),), port=0, keys=str(file.path), audit=str(tmp_path / "audit"),
        limits=Limits(body_bytes=500, texts=2),
    )  # fmt: skip
    document = {"inputs": [texts_of("maria")]}
    with Supervisor(settings) as server:
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        for path in ("/v2", "/v2/health/ready", "/v2/models/fake", "/v2/models/fake/ready"):
            assert_error(httpx.get(f"{server.url}{path}"), 401)
            assert httpx.get(f"{server.url}{path}", headers={"X-API-Key": ner}).status_code == 200
        assert_error(ask(server, document), 401)
        assert_error(ask(server, document, **{"X-API-Key": other}), 403)
        assert ask(server, document, **{"X-API-Key": ner}).status_code == 200
        assert ask(server, document, **{"X-API-Key": slow}).status_code == 200
        often = ask(server, document, **{"X-API-Key": slow})
        assert_error(often, 429)
        assert "retry-after" in often.headers
        assert_error(ask(server, {"inputs": [texts_of("a", "b", "c")]}, **{"X-API-Key": ner}), 413)
        assert_error(ask(server, {"inputs": [texts_of("a" * 600)]}, **{"X-API-Key": ner}), 413)
    told = "".join(file.read_text() for file in (tmp_path / "audit").glob("*.jsonl"))
    assert told.count('"what":"POST /v2/models/fake/infer"') == 7
    assert "maria" not in told
