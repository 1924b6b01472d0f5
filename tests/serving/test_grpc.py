"""The Open Inference Protocol over gRPC, by Triton's own client, a bare channel and bytes."""

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from making import make_certificate, make_fake_bundle, watched
from millis.errors import InvalidValue, MillisError
from millis.security.keys import KeyFile
from millis.serving.protobuf import messages
from millis.serving.settings import Limits, ServeSettings
from millis.serving.supervisor import Supervisor

TEXTS = ["maria garcia of northwind wrote 😀 from 上海", "eu rejects german call", "x"]
SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A server with the port."""
    folder = tmp_path_factory.mktemp("grpc")
    with serve(folder) as running, watched(running):
        yield running


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """One that takes 30 ms for a text, on a thread."""
    with serve(tmp_path_factory.mktemp("slow"), delay_ms=30.0, threads=1) as running:
        yield running


def serve(folder: Path, *, delay_ms: float = 0.0, threads: int = 0, workers: int = 1, **settings: Any) -> Supervisor:
    bundle = make_fake_bundle(folder, delay_ms=delay_ms, threads=threads, workers=workers, buckets=(32,))
    return Supervisor(ServeSettings(**{"bundles": (str(bundle.path),), "port": 0, "grpc_port": 0, **settings}))


@pytest.fixture
def triton(speaking: Supervisor) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with tritonclient.grpc.InferenceServerClient(speaking.grpc_address) as client:
        yield client


class Said:
    """What came of a call."""

    def __init__(self, call: Any, payload: bytes | None = None) -> None:
        self.code, self.details = call.code(), call.details()
        self.metadata = dict(call.trailing_metadata() or ())
        self.message = service_pb2.ModelInferResponse.FromString(payload) if payload is not None else None

    @property
    def results(self) -> list[Any]:
        assert self.message is not None, self.details
        return [json.loads(one) for one in self.message.outputs[0].contents.bytes_contents]


def call(server: Supervisor, message: Any, *, method: str = INFER, **options: Any) -> Said:
    """Call over a connection of its own."""
    with grpc.insecure_channel(server.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        ask = channel.unary_unary(method)
        try:
            payload, done = ask.with_call(data, timeout=options.pop("timeout", 10), **options)
        except grpc.RpcError as error:
            return Said(error)
        return Said(done, payload if method == INFER else None)


def infer(*texts: str | bytes, **fields: Any) -> Any:
    """Make a request with its texts in `contents`."""
    request = service_pb2.ModelInferRequest(**{"model_name": "fake", **fields})
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(one.encode() if isinstance(one, str) else one for one in texts)
    return request


def with_parameters(request: Any, **values: Any) -> Any:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in values.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return request


def tensor(texts: list[str], *, shape: tuple[int, ...] | None = None) -> tritonclient.grpc.InferInput:
    array = np.array([text.encode() for text in texts], dtype=object).reshape(shape or (len(texts),))
    made = tritonclient.grpc.InferInput("text", list(array.shape), "BYTES")
    return made.set_data_from_numpy(array)


def plain(server: Supervisor, texts: list[str], *, task: str = "ner", **options: object) -> list[object]:
    return httpx.post(f"{server.url}/v1/{task}", json={"input": texts, **options}).json()["results"]


def raw_head(path: bytes) -> bytes:
    """Write what opens a connection and begins a call, by hand: headers that are literal and in no table."""
    pairs = {
        b":method": b"POST", b":scheme": b"http", b":path": path, b":authority": b"a", b"te": b"trailers",
        b"content-type": b"application/grpc",
    }  # fmt: skip
    head = b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in pairs.items())
    settings = b"\0\0\0\4\0\0\0\0\0"
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + struct.pack(">I", len(head))[1:] + b"\1\5\0\0\0\1" + head


def test_our_messages_have_the_fields_that_tritons_have() -> None:
    for name, ours in messages.items():
        if name in ("TensorMetadata", "ParametersEntry", "InferTensor", "InferRequestedOutputTensor"):
            continue  # inside others there
        theirs = service_pb2.DESCRIPTOR.message_types_by_name[name]
        assert_within(ours.DESCRIPTOR, theirs)
        if name != "InferTensorContents":
            assert {field.name for field in ours.DESCRIPTOR.fields} == {field.name for field in theirs.fields}


def assert_within(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        twin = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (twin.number, twin.type, twin.is_repeated)
        if field.message_type is not None:
            assert_within(field.message_type, twin.message_type)


def test_tritons_client_learns_what_is_served(speaking: Supervisor, triton: tritonclient.grpc.InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("fake")
    assert triton.is_model_ready("fake", "1")
    assert not triton.is_model_ready("other")
    assert not triton.is_model_ready("fake", "2")
    over_http = httpx.get(f"{speaking.url}/v2").json()
    said = triton.get_server_metadata(as_json=True)
    assert said == over_http
    over_http = httpx.get(f"{speaking.url}/v2/models/fake").json()
    said = triton.get_model_metadata("fake", "1", as_json=True)
    for one in (*said["inputs"], *said["outputs"]):
        one["shape"] = [int(n) for n in one["shape"]]  # JSON of messages has 64 bits as text
    assert said == over_http
    for name, version in (("other", ""), ("fake", "2")):
        with pytest.raises(InferenceServerException, match="not served here"):
            triton.get_model_metadata(name, version)


def test_tritons_client_gets_what_everybody_gets(speaking: Supervisor, triton: tritonclient.grpc.InferenceServerClient) -> None:
    said = triton.infer("fake", [tensor(TEXTS)], request_id="mine", timeout=2_000_000, client_timeout=5.0)
    assert [json.loads(one) for one in said.as_numpy("result")] == plain(speaking, TEXTS)
    answer = said.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("mine", "fake", "1")
    assert answer.parameters["rung"].string_param == "fake"
    outputs = [tritonclient.grpc.InferRequestedOutput("result")]
    texts = [*TEXTS, "maria"]
    said = triton.infer("fake", [tensor(texts, shape=(2, 2))], model_version="1", outputs=outputs)
    assert said.as_numpy("result").shape == (2, 2)
    assert [json.loads(one) for one in said.as_numpy("result").flatten()] == plain(speaking, texts)


def test_tritons_asynchronous_client_gets_the_same(speaking: Supervisor) -> None:
    async def send() -> list[object]:
        async with tritonclient.grpc.aio.InferenceServerClient(speaking.grpc_address) as client:
            assert await client.is_server_ready()
            said = await asyncio.gather(*(client.infer("fake", [tensor(TEXTS)], client_timeout=5.0) for _ in range(8)))
            return [[json.loads(one) for one in answer.as_numpy("result")] for answer in said]

    assert asyncio.run(send()) == [plain(speaking, TEXTS)] * 8


def test_texts_in_contents_are_answered_in_contents_and_where_another_form_is_asked_for_in_that(speaking: Supervisor) -> None:
    said = call(speaking, infer(*TEXTS))
    assert said.results == plain(speaking, TEXTS)
    assert not said.message.raw_output_contents
    packed = call(speaking, with_parameters(infer(*TEXTS), binary_data_output=True)).message
    assert [json.loads(one) for one in tritonclient.utils.deserialize_bytes_tensor(packed.raw_output_contents[0])] == plain(speaking, TEXTS)


def test_an_answer_accounts_for_its_milliseconds_in_its_metadata(speaking: Supervisor) -> None:
    said = call(speaking, infer("maria"), metadata=[("x-request-id", "mine"), ("other-bin", b"\xff")])
    assert said.metadata["x-request-id"] == "mine"
    assert said.metadata["x-millis-rung"] == "fake"
    assert "run;dur=" in said.metadata["server-timing"]
    assert "content-type" not in said.metadata


def raw(*elements: bytes, n: int = 1, shape: tuple[int, ...] = (1,)) -> Any:
    request = infer()
    request.inputs[0].ClearField("contents")
    request.inputs[0].shape[:] = shape
    request.raw_input_contents.extend([b"".join(elements)] * n)
    return request


def changed(**fields: Any) -> Any:
    """Make a good request whose input is otherwise."""
    request = infer("maria")
    for name, value in fields.items():
        if name == "shape":
            request.inputs[0].shape[:] = value
        else:
            setattr(request.inputs[0], name, value)
    return request


def element(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def doubled(request: Any) -> Any:
    request.inputs.append(request.inputs[0])
    return request


def asking_for(request: Any, name: str, **parameters: int) -> Any:
    output = request.outputs.add(name=name)
    for key, value in parameters.items():
        output.parameters[key].int64_param = value
    return request


WRONG = grpc.StatusCode.INVALID_ARGUMENT
MUCH = grpc.StatusCode.RESOURCE_EXHAUSTED
UNKNOWN = grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\xff", WRONG), (b"\x0a\x02\xff\xfe", WRONG), (service_pb2.ModelInferRequest(model_name="fake"), WRONG), (b"", UNKNOWN),
        (infer("a", model_name="other"), UNKNOWN), (infer("a", model_version="2"), UNKNOWN), (with_parameters(infer("a"), rung="other"), UNKNOWN),
        (doubled(infer("a")), WRONG), (infer(), WRONG), (infer(""), WRONG), (infer(b"\xff\xfe"), WRONG), (changed(name="other"), WRONG),
        (changed(datatype="INT32"), WRONG), (changed(shape=[2]), WRONG), (changed(shape=[]), WRONG), (changed(shape=[-1]), WRONG),
        (changed(shape=[2**62, 2**62]), WRONG), (raw(element(b"a"), n=2), WRONG), (raw(b"abc"), WRONG), (raw(element(b"a"), shape=(2,)), WRONG),
        (raw(element(b"a") + b"\1"), WRONG), (infer("a", raw_input_contents=[element(b"a")]), WRONG), (raw(n=0), WRONG),
        (with_parameters(infer("a"), timeout=-1), WRONG), (with_parameters(infer("a"), timeout=1.5), WRONG), (with_parameters(infer("a"), input="b"), WRONG),
        (with_parameters(infer("a"), priority=1), WRONG), (with_parameters(infer("a"), fallback=float("nan")), WRONG),
        (asking_for(infer("a"), "other"), WRONG), (asking_for(infer("a"), "result", classification=2), WRONG),
        (infer(*["a"] * 257), MUCH), (infer(*["a"] * 5000), MUCH), (infer("a" * 50_001), MUCH), (raw(element(b"") * 1000, shape=(1000,)), MUCH),
    ],
)  # fmt: skip
def test_what_is_not_of_the_protocol_gets_a_code_and_a_sentence(speaking: Supervisor, message: Any, code: grpc.StatusCode) -> None:
    said = call(speaking, message)
    assert said.code is code, said.details
    assert len(said.details) > 20
    assert said.metadata["x-millis-problem"]
    assert "maria" not in said.details


def test_what_is_too_large_compressed_or_unknown_is_refused_by_the_library(speaking: Supervisor) -> None:
    assert call(speaking, infer("a" * 1_000_001)).code is MUCH
    assert call(speaking, infer("maria"), metadata=[("x", "a" * 20_000)]).code is MUCH
    assert call(speaking, infer("a" * 5_000_000), compression=grpc.Compression.Gzip).code is grpc.StatusCode.UNIMPLEMENTED
    assert call(speaking, b"", method=f"{SERVICE}ModelStreamInfer").code is grpc.StatusCode.UNIMPLEMENTED
    assert call(speaking, infer("maria")).code is grpc.StatusCode.OK


def test_a_tasks_own_options_are_parameters_and_documents_are_elements(tmp_path: Path) -> None:
    bundles = [make_fake_bundle(tmp_path, name="labels", task="classify"), make_fake_bundle(tmp_path, name="answers", task="qa")]
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0, grpc_port=0)) as server:
        said = call(server, with_parameters(infer("maria", "x", model_name="labels"), top_k=1))
        assert said.results == plain(server, ["maria", "x"], task="classify", top_k=1)
        assert call(server, with_parameters(infer("maria", model_name="labels"), top_k=0)).code is WRONG
        asked = {"question": "who", "context": "maria wrote"}
        assert call(server, infer(json.dumps(asked), model_name="answers")).results == plain(server, [asked], task="qa")  # type: ignore[list-item]


def test_every_deadline_counts_and_the_soonest_most(tmp_path: Path) -> None:
    with serve(tmp_path, delay_ms=20.0) as server:
        assert call(server, with_parameters(infer("maria"), timeout=900_000), timeout=5).code is grpc.StatusCode.OK
        assert call(server, infer("maria"), timeout=8000).code is grpc.StatusCode.OK
        for refused in (
            call(server, with_parameters(infer("maria"), timeout=5000), timeout=5),
            call(server, infer("maria"), metadata=[("x-deadline-ms", "5")]),
        ):
            assert refused.code is grpc.StatusCode.UNAVAILABLE
            assert refused.metadata["x-millis-problem"] == "deadline-too-short"
            assert refused.metadata["grpc-retry-pushback-ms"] == "-1", "by gRPC: do not try again"
            assert "retry-after" not in refused.metadata
        twice = call(server, with_parameters(infer("maria"), timeout=900_000), metadata=[("x-deadline-ms", "500")])
        assert twice.code is WRONG
        assert call(server, infer("maria"), timeout=0.012).code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        counted = wait_for_counts(server, f'reason="deadline-too-short",route="{INFER}"}} 3.0')
        assert f'millis_requests_total{{route="{INFER}",status="200"}} 2.0' in counted


def test_a_refused_call_is_told_which_rung_fits_and_when_to_come_again(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=400.0, faster_ms=1.0, threads=1)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, grpc_port=0)) as server:
        refused = call(server, with_parameters(infer("maria"), rung="fake", timeout=250_000))
        assert (refused.code, refused.metadata["x-millis-fits"]) == (grpc.StatusCode.UNAVAILABLE, "fake-fast")
        assert "ask the rung fake-fast, which would fit" in refused.details
        assert call(server, with_parameters(infer("maria"), rung="fake-fast", timeout=250_000)).code is grpc.StatusCode.OK
        asked = with_parameters(infer("maria"), rung="fake", timeout=1_000_000)
        with ThreadPoolExecutor(6) as pool:
            crowd = [one for one in pool.map(lambda _: call(server, asked), range(6)) if one.code is grpc.StatusCode.UNAVAILABLE]
        assert crowd, "of six that take 400 ms, two fit into a second"
        for one in crowd:
            assert one.metadata["x-millis-problem"] in ("would-be-late", "would-make-others-late")
            assert int(one.metadata["grpc-retry-pushback-ms"]) >= 1
            assert int(one.metadata["retry-after"]) >= 1


def wait_for_counts(server: Supervisor, line: str) -> str:
    deadline = time.monotonic() + 5
    while line not in (counted := httpx.get(f"{server.url}/metrics").text):
        assert time.monotonic() < deadline, counted
        time.sleep(0.02)
    return counted


def test_a_call_that_its_client_gives_up_is_let_go(slow: Supervisor) -> None:
    with grpc.insecure_channel(slow.grpc_address) as channel:
        ask = channel.unary_unary(INFER)
        first = ask.future(infer(*TEXTS * 4).SerializeToString())
        time.sleep(0.1)  # else the second may come first
        second = ask.future(infer(*TEXTS * 30).SerializeToString())
        time.sleep(0.1)
        second.cancel()
        wait_for_counts(slow, f'millis_requests_total{{route="{INFER}",status="400"}} 1.0')
        assert first.result()
        began = time.monotonic()
        assert ask(infer("maria").SerializeToString())
        assert time.monotonic() - began < 1, "90 windows of 30 ms are not run"


def test_a_call_whose_deadline_passes_while_it_waits_is_a_promise_that_was_not_kept(slow: Supervisor) -> None:
    with grpc.insecure_channel(slow.grpc_address) as channel:
        late = channel.unary_unary(INFER).future(infer(*["maria"] * 15).SerializeToString(), timeout=0.7)
        time.sleep(0.15)
        os.kill(slow.pids[0], signal.SIGSTOP)
        try:
            assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            os.kill(slow.pids[0], signal.SIGCONT)
    wait_for_counts(slow, f'millis_requests_total{{route="{INFER}",status="504"}} 1.0')
    wait_for_counts(slow, 'millis_promises_total{kept="false",model="fake"} 1.0')


def test_the_gate_is_that_of_every_route(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    ner, _ = file.create(name="", scopes=["ner"])
    other, _ = file.create(name="", scopes=["model:other"])
    often, _ = file.create(name="", scopes=["model:fake"], rate_per_s=0.01)
    request = infer("maria")

    def bearer(key: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {key}")]

    with serve(tmp_path, keys=str(file.path), audit=str(tmp_path / "audit"), limits=Limits(texts=2)) as server:
        assert call(server, b"", method=f"{SERVICE}ServerLive").code is grpc.StatusCode.OK
        for method in ("ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata"):
            named = service_pb2.ModelReadyRequest(name="fake") if "Model" in method else b""
            assert call(server, named, method=SERVICE + method).code is grpc.StatusCode.UNAUTHENTICATED
            assert call(server, named, method=SERVICE + method, metadata=[("x-api-key", ner)]).code is grpc.StatusCode.OK
        assert call(server, request).code is grpc.StatusCode.UNAUTHENTICATED
        assert call(server, infer("maria", model_name="other")).code is grpc.StatusCode.UNAUTHENTICATED
        assert call(server, request, metadata=bearer(other)).code is grpc.StatusCode.PERMISSION_DENIED
        assert call(server, request, metadata=bearer(ner)).code is grpc.StatusCode.OK
        assert call(server, request, metadata=bearer(often)).code is grpc.StatusCode.OK
        refused = call(server, request, metadata=bearer(often))
        assert refused.code is MUCH
        assert int(refused.metadata["retry-after"]) > 1
        assert call(server, infer("a", "b", "c"), metadata=bearer(ner)).code is MUCH
    told = "".join(file.read_text() for file in (tmp_path / "audit").glob("*.jsonl"))
    assert told.count(f'"what":"POST {INFER}"') == 7
    assert told.count(f'"what":"POST {SERVICE}ModelReady"') == 2
    assert "maria" not in told


def test_a_stop_finishes_the_calls_that_were_taken_and_waits_for_no_stranger(tmp_path: Path) -> None:
    with serve(tmp_path, delay_ms=30.0, threads=1) as server:
        address = dial_to(server)
        with ThreadPoolExecutor(2) as pool, socket.create_connection(address) as stranger:
            stranger.sendall(raw_head(SERVICE.encode()))
            asked = [pool.submit(call, server, infer(*TEXTS * 3)) for _ in range(2)]
            time.sleep(0.15)
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 3
            assert [one.result().code for one in asked] == [grpc.StatusCode.OK] * 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def dial_to(server: Supervisor) -> tuple[str, int]:
    host, _, port = str(server.grpc_address).rpartition(":")
    return host, int(port)


@pytest.mark.slow
def test_workers_share_a_port_that_no_other_server_gets(tmp_path: Path) -> None:
    with serve(tmp_path, workers=2) as server, watched(server):
        with pytest.raises(InvalidValue, match="cannot listen"), serve(tmp_path / "second", grpc_port=dial_to(server)[1]):
            pass
        os.kill(server.pids[0], signal.SIGKILL)
        for _ in range(20):
            assert call(server, infer("maria"), wait_for_ready=True).code is grpc.StatusCode.OK


def test_calls_whose_names_are_not_text_end_none_that_was_taken_and_fill_no_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(tmp_path, delay_ms=30.0, threads=1) as server:
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(call, server, infer(*TEXTS * 4))
            time.sleep(0.1)
            for _ in range(2):
                with socket.create_connection(dial_to(server)) as stranger:
                    stranger.sendall(raw_head(b"/\xff\xfe"))
                    time.sleep(0.15)  # what comes in this moment is lost
            assert taken.result().code is grpc.StatusCode.OK
        assert call(server, infer("maria"), wait_for_ready=True).code is grpc.StatusCode.OK
    told = capfd.readouterr().err
    assert told.count("ended by itself") == 1, "said once"
    assert "Traceback" not in told


@pytest.mark.slow
def test_everybody_of_a_crowd_hears_an_answer_or_why_there_is_none(speaking: Supervisor) -> None:
    async def crowd(n: int) -> list[bytes | BaseException]:
        async with grpc.aio.insecure_channel(speaking.grpc_address) as channel:
            ask = channel.unary_unary(INFER)
            return await asyncio.gather(*(ask(infer("maria").SerializeToString()) for _ in range(n)), return_exceptions=True)

    said = asyncio.run(crowd(2500))
    refused = [one for one in said if isinstance(one, grpc.RpcError)]
    assert len(refused) < len(said)
    assert {one.code() for one in refused} <= {grpc.StatusCode.UNAVAILABLE}


def test_one_connection_too_many_is_refused_and_who_is_in_is_served(tmp_path: Path) -> None:
    with serve(tmp_path, limits=Limits(connections=3)) as server, grpc.insecure_channel(server.grpc_address) as channel:
        ask = channel.unary_unary(INFER)
        assert ask(infer("maria").SerializeToString())
        held = [socket.create_connection(dial_to(server)) for _ in range(2)]
        time.sleep(0.1)
        assert call(server, infer("maria"), timeout=1).code is grpc.StatusCode.UNAVAILABLE
        assert ask(infer("maria").SerializeToString())
        for one in held:
            one.close()
        assert call(server, infer("maria"), wait_for_ready=True).code is grpc.StatusCode.OK


def test_only_a_server_with_the_port_loads_grpc(server: Supervisor, speaking: Supervisor) -> None:
    assert server.grpc_address is None
    loaded = Path(f"/proc/{server.pids[0]}/maps").read_text()
    assert "cygrpc" not in loaded
    assert "google" not in loaded
    assert "cygrpc" in Path(f"/proc/{speaking.pids[0]}/maps").read_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="install openssl, which makes the certificates")
def test_calls_come_over_tls_where_the_server_has_a_certificate_and_a_new_one_is_taken_up(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path / "first", name="first")
    with serve(tmp_path, tls_certificate=str(certificate), tls_key=str(key)) as server:
        assert call_trusting(server, certificate) == "fake"
        assert call(server, infer("maria"), timeout=1).code is grpc.StatusCode.UNAVAILABLE, "in the clear"
        new_certificate, new_key = make_certificate(tmp_path / "second", name="second")
        shutil.copy(new_key, key)
        shutil.copy(new_certificate, certificate)
        wanted = ssl.PEM_cert_to_DER_cert(new_certificate.read_text())
        deadline = time.monotonic() + 10
        while ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(dial_to(server))) != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert call_trusting(server, new_certificate) == "fake"
        trust = ssl.create_default_context(cafile=str(new_certificate))
        trust.set_alpn_protocols(["h2"])
        with trust.wrap_socket(socket.create_connection(dial_to(server)), server_hostname="127.0.0.1") as stranger:
            stranger.sendall(raw_head(b"/\xff\xfe"))
            time.sleep(0.15)
        assert call_trusting(server, new_certificate) == "fake", "after the library's server was started anew"


def call_trusting(server: Supervisor, certificate: Path) -> str:
    trust = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(server.grpc_address, trust, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        said = channel.unary_unary(INFER)(infer("maria").SerializeToString(), timeout=3, wait_for_ready=True)
        return str(service_pb2.ModelInferResponse.FromString(said).model_name)


def test_a_missing_extra_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grpc.py").write_text("raise ImportError('not there')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(MillisError, match=r"pip install 'millis\[grpc\]'"), serve(tmp_path):
        pass


def test_the_command_says_where_calls_are_answered(tmp_path: Path) -> None:
    bundle = str(make_fake_bundle(tmp_path).path)
    command = [sys.executable, "-m", "millis", "serve", bundle, "--port", "0", "--grpc-port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["grpc"]
        with tritonclient.grpc.InferenceServerClient(address) as client:
            assert client.is_model_ready("fake")
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0


def test_ports_that_cannot_be_are_refused() -> None:
    for port in (-1, 65536):
        with pytest.raises(InvalidValue, match="0 to 65535"):
            ServeSettings(bundles=("a",), grpc_port=port)
    with pytest.raises(InvalidValue, match="--grpc-port another"):
        ServeSettings(bundles=("a",), port=8001, grpc_port=8001)
