"""What a deadline is, over HTTP."""

import httpx
import pytest

from millis.errors import InvalidRequest
from millis.serving.deadlines import read_deadline
from millis.serving.supervisor import Supervisor


@pytest.mark.parametrize(
    ("name", "value", "ms"),
    [
        (b"x-deadline-ms", b"5", 5.0), (b"x-deadline-ms", b"0.25", 0.25), (b"grpc-timeout", b"5m", 5.0),
        (b"grpc-timeout", b"250u", 0.25), (b"grpc-timeout", b"1S", 1000.0), (b"grpc-timeout", b"1H", 3_600_000.0),
    ],
)  # fmt: skip
def test_a_deadline_is_read_from_either_header(name: bytes, value: bytes, ms: float) -> None:
    assert read_deadline([(b"host", b"a"), (name, value)]) == pytest.approx(ms)


def test_no_header_is_no_deadline() -> None:
    assert read_deadline([(b"host", b"a"), (b"x-deadline", b"5")]) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Deadline-Ms", "-1"), ("X-Deadline-Ms", "0"), ("X-Deadline-Ms", "nan"), ("X-Deadline-Ms", "inf"),
        ("X-Deadline-Ms", "1e300"), ("X-Deadline-Ms", "3600001"), ("X-Deadline-Ms", "soon"), ("X-Deadline-Ms", ""),
        ("X-Deadline-Ms", "5 ms"), ("X-Deadline-Ms", "1_0"), ("grpc-timeout", "5"), ("grpc-timeout", "m"), ("grpc-timeout", "123456789m"),
        ("grpc-timeout", "-5m"), ("grpc-timeout", "5d"), ("grpc-timeout", ""), ("grpc-timeout", "0m"),
    ],
)  # fmt: skip
def test_an_absurd_deadline_is_a_problem_that_says_what_is_allowed(server: Supervisor, name: str, value: str) -> None:
    refused = httpx.post(f"{server.url}/v1/ner", json={"input": "maria"}, headers={name: value})
    assert (refused.status_code, refused.json()["type"]) == (400, "/problems/bad-deadline")
    assert "X-Deadline-Ms or grpc-timeout" in refused.json()["detail"]
    assert httpx.post(f"{server.url}/v1/ner", json={"input": "maria"}, headers={name: "1000m"[: -1 if "X" in name else 5]}).is_success


def test_a_deadline_said_twice_is_a_problem() -> None:
    with pytest.raises(InvalidRequest, match="more than once"):
        read_deadline([(b"x-deadline-ms", b"5"), (b"grpc-timeout", b"5m")])
