"""Requests a day: counted over workers and restarts, refused when they are used up."""

from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from making import make_fake_bundle
from millis.cli.app import app
from millis.errors import InvalidValue
from millis.security import quotas
from millis.security.keys import KeyFile
from millis.security.quotas import Quotas
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.units import read_quota_per_day

ASK = {"input": "maria"}


def test_what_a_day_allows_is_counted_over_workers_and_begins_anew_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 20_000 * 86_400.0 + 86_000
    monkeypatch.setattr(quotas.time, "time", lambda: now)
    one, other = Quotas(tmp_path / "used"), Quotas(tmp_path / "used")
    assert not (tmp_path / "used").exists()
    assert [one.take("a", most=5) for _ in range(3)] == [0, 0, 0]
    assert one.take("b", most=1) == 0
    one.share()
    other.share()
    assert [other.take("a", most=5) for _ in range(3)] == [0, 0, 400]
    other.share()
    assert Quotas(tmp_path / "used").take("a", most=5) == 400  # a worker that starts later
    now += 500
    assert other.take("a", most=5) == 0
    other.share()
    assert Quotas(tmp_path / "used").take("a", most=1) > 80_000
    assert len(list((tmp_path / "used").glob("*.json"))) == 1  # yesterday's are gone


def test_a_file_of_counts_that_was_cut_off_harms_nobody(tmp_path: Path) -> None:
    one = Quotas(tmp_path)
    one.take("a", most=9)
    one.share()
    file = next(tmp_path.glob("*.json"))
    file.write_bytes(file.read_bytes()[:-2])
    assert Quotas(tmp_path).take("a", most=1) == 0


@pytest.mark.parametrize("text", ["", "0", "-1/day", "1.5/day", "many", "10/s", "1e3"])
def test_a_quota_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="10000/day"):
        read_quota_per_day(text)


def test_a_key_whose_quota_is_used_up_is_told_when_to_come_again_after_a_restart_too(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = CliRunner().invoke(app, ["keys", "create", "--scope", "ner", "--quota", "3/day", "--file", str(file)])
    assert made.exit_code == 0, made.output
    headers = {"X-API-Key": made.output.split()[0]}
    free, _ = KeyFile(file).create(name="", scopes=["ner"])
    settings = ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, keys=str(file))
    for wanted in ([200, 200, 200, 429, 429], [429]):
        with Supervisor(settings) as server:
            answers = [httpx.post(f"{server.url}/v1/ner", json=ASK, headers=headers) for _ in wanted]
            assert [one.status_code for one in answers] == wanted
            assert answers[-1].json()["type"] == "/problems/quota-used"
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 86_400
            assert httpx.post(f"{server.url}/v1/ner", json=ASK, headers={"X-API-Key": free}).status_code == 200
