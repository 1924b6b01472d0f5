"""TLS in the server: certificates that change, and those that cannot be used."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from making import count_open, make_certificate, make_fake_bundle
from millis.errors import InvalidValue
from millis.security.certificates import make_context
from millis.serving.settings import Limits, ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="install openssl, which makes the certificates")


def read_served(server: Supervisor) -> str:
    return ssl.get_server_certificate(("127.0.0.1", int(server.url.rpartition(":")[2])))


def same(one: str, other: str) -> bool:
    return ssl.PEM_cert_to_DER_cert(one) == ssl.PEM_cert_to_DER_cert(other)


def test_answers_come_over_https_and_a_new_certificate_is_taken_up_while_the_server_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    certificate, key = make_certificate(tmp_path / "first", name="first")
    settings = ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, tls_certificate=str(certificate), tls_key=str(key))
    with Supervisor(settings) as server:
        assert server.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=trust) as client:
            assert client.post(f"{server.url}/v1/ner", json={"input": "maria"}).status_code == 200
            before = certificate.read_text()
            certificate.write_text("no certificate")
            wait(lambda: "cannot be used" in capfd.readouterr().err)
            assert same(read_served(server), before)
            new_certificate, new_key = make_certificate(tmp_path / "second", name="second")
            shutil.copy(new_key, key)
            shutil.copy(new_certificate, certificate)
            wait(lambda: same(read_served(server), new_certificate.read_text()))
            assert client.post(f"{server.url}/v1/ner", json={"input": "maria"}).status_code == 200  # over its open connection
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=5) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        with httpx.Client(verify=ssl.create_default_context(cafile=str(new_certificate))) as client:
            assert client.post(f"{server.url}/v1/ner", json={"input": "maria"}).status_code == 200


def wait(holds: object) -> None:
    deadline = time.monotonic() + 10
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_certificates_that_cannot_be_used_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (certificate, key), (_, other_key) = make_certificate(tmp_path / "one", name="one"), make_certificate(tmp_path / "other", name="other")
    secret = tmp_path / "secret.pem"
    subprocess.run(["openssl", "ec", "-in", key, "-aes128", "-passout", "pass:abcd", "-out", secret], check=True, capture_output=True)
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"\x00\xff no certificate")
    make_context(str(certificate), str(key))
    for pair in ((garbage, key), (certificate, garbage), (certificate, other_key), (certificate, secret), (tmp_path / "none.pem", key), (certificate, tmp_path), (key, certificate)):
        with pytest.raises(InvalidValue, match="TLS certificate") as refused:
            make_context(*map(str, pair))
        assert "PEM" in str(refused.value)
    bundle = make_fake_bundle(tmp_path)
    with pytest.raises(InvalidValue, match="come together"):
        ServeSettings(bundles=(str(bundle.path),), tls_certificate=str(certificate))
    with pytest.raises(InvalidValue, match="TLS certificate"), Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, tls_certificate=str(garbage), tls_key=str(key))):
        pass


def test_a_connection_on_which_nothing_comes_is_let_go_whether_its_client_says_goodbye_or_not(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path / "tls", name="first")
    settings = ServeSettings(
        bundles=(str(make_fake_bundle(tmp_path).path),), port=0, tls_certificate=str(certificate), tls_key=str(key),
        limits=Limits(head_s=0.5, idle_s=0.5),
    )  # fmt: skip
    trust = ssl.create_default_context(cafile=str(certificate))
    ask = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    with Supervisor(settings) as server, contextlib.ExitStack() as stack:
        n_before = count_open(server.pids[0])
        for said in [b""] * 20 + [ask] * 20:
            plain = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
            peer = stack.enter_context(trust.wrap_socket(plain, server_hostname="127.0.0.1"))
            peer.sendall(said)
        deadline = time.monotonic() + 8  # nobody reads, so nobody answers that the connection ends
        while count_open(server.pids[0]) > n_before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path, said: bytes) -> None:
    certificate, key = make_certificate(tmp_path / "tls", name="first")
    settings = ServeSettings(
        bundles=(str(make_fake_bundle(tmp_path).path),), port=0, tls_certificate=str(certificate), tls_key=str(key), limits=Limits(head_s=0.3)
    )  # fmt: skip
    with Supervisor(settings) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10) as peer:
            peer.sendall(said)
            assert peer.recv(100) == b""
        trust = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{server.url}/health/live", verify=trust).status_code == 200
