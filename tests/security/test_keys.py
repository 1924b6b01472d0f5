"""Keys in a file, and what a server makes of them."""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from making import make_fake_bundle
from millis.cli.app import app
from millis.errors import InvalidValue, RunFailed
from millis.security.keys import KeyFile, KeyRing
from millis.serving.admin import Admin
from millis.serving.pages import list_page_routes
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

ASK = {"input": "maria wrote"}


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_is_kept_as_a_hash_in_a_file_of_its_owner(file: KeyFile) -> None:
    secret, key = file.create(name="shop", scopes=["ner"])
    assert secret.split("_")[2] not in file.path.read_text()
    assert file.path.stat().st_mode & 0o077 == 0
    assert KeyRing(file, tell=print).find(secret) == key
    for wrong in (secret[:-1], secret + "0", "", "mk", "mk_", f"mk_{key.id}_", f"mk_{key.id}", "mk_nobody_" + "0" * 64, secret.upper()):
        assert KeyRing(file, tell=print).find(wrong) is None


def test_a_file_that_others_may_read_or_that_holds_no_keys_is_refused(file: KeyFile) -> None:
    file.create(name="", scopes=["*"])
    os.chmod(file.path, 0o644)
    with pytest.raises(InvalidValue, match="chmod 600"):
        file.read()
    os.chmod(file.path, 0o600)
    file.path.write_text('[{"id": 3}]')
    with pytest.raises(InvalidValue, match="holds no keys of millis"):
        file.read()


@pytest.mark.parametrize(
    "edit",
    [
        {"rate_per_s": -1}, {"rate_per_s": 0}, {"rate_per_s": 1e-320}, {"quota_per_day": 0}, {"sha256": "é" * 64}, {"sha256": ""},
        {"id": "../../x"},
    ],
)  # fmt: skip
def test_a_file_that_was_edited_into_what_no_key_can_have_is_refused(file: KeyFile, edit: dict[str, object]) -> None:
    file.create(name="", scopes=["*"])
    record = json.loads(file.path.read_text())[0]
    file.path.write_text(json.dumps([record | edit]))
    with pytest.raises(InvalidValue, match=next(iter(edit))):
        file.read()


def test_a_key_that_stands_twice_is_refused_since_one_of_them_might_be_revoked(file: KeyFile) -> None:
    _, key = file.create(name="", scopes=["*"])
    file.path.write_text(json.dumps(2 * json.loads(file.path.read_text())))
    with pytest.raises(InvalidValue, match=f"{key.id} more than once"):
        file.revoke(key.id)


def test_keys_that_a_running_server_cannot_read_any_more_let_nobody_in_and_that_is_said_once(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, key = file.create(name="", scopes=["*"])
    content, told = file.path.read_bytes(), list[str]()
    monkeypatch.setattr("millis.security.keys._LOOK_AGAIN_S", 0.0)
    ring = KeyRing(file, tell=told.append)
    for spoil, says in (
        (lambda: os.chmod(file.path, 0o644), "chmod 600"), (lambda: file.path.write_bytes(content[:50]), "holds no keys"),
        (lambda: file.path.write_bytes(b"[]"), "no key in"), (file.path.unlink, "no key in"),
    ):  # fmt: skip
        spoil()
        assert [ring.find(secret), ring.find(secret)] == [None, None]
        assert [says in line for line in told] == [True]
        told.clear()
        file.path.write_bytes(content)
        os.chmod(file.path, 0o600)
        assert [ring.find(secret), told] == [key, []]


@pytest.mark.parametrize("scopes", [[], [""], ["NER"], ["model:"], ["model:../x"], ["a b"]])
def test_a_scope_that_cannot_be_is_refused_and_nothing_is_written(file: KeyFile, scopes: list[str]) -> None:
    with pytest.raises(InvalidValue):
        file.create(name="", scopes=scopes)
    assert not file.path.exists()


def test_keys_that_cannot_be_written_are_an_error_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot be written"):
        KeyFile(tmp_path / "file" / "keys.json").create(name="", scopes=["*"])


def test_a_server_with_keys_lets_nobody_in_without_one(tmp_path: Path, file: KeyFile) -> None:
    key, _ = file.create(name="", scopes=["ner"])
    old, _ = file.create(name="", scopes=["ner"], expires_s=0.0)
    bundle = make_fake_bundle(tmp_path)
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(file.path))
    with Supervisor(settings) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/health/live").status_code == 200
        for method, path in (
            ("POST", "/v1/ner"), ("GET", "/v1/ner"), ("GET", "/v1/models"), ("GET", "/contract"), ("GET", "/metrics"), ("GET", "/health"),
            ("GET", "/openapi.json"), ("GET", "/"), ("GET", "/page/playground.js"), ("GET", "/nowhere"), ("PUT", "/v1/ner"),
        ):  # fmt: skip
            refused = client.request(method, path, json=ASK)
            assert (refused.status_code, refused.json()["type"]) == (401, "/problems/no-key"), path
            assert "Bearer" in refused.headers["www-authenticate"]
        for headers in (
            bearer("mk_x_y"), bearer("x"), bearer(key[:-1]), {"Authorization": key}, {"Authorization": "Basic ???"}, {"X-API-Key": "x"},
            {**bearer(key), "X-API-Key": key}, {"Cookie": key},
        ):  # fmt: skip
            assert client.post("/v1/ner", json=ASK, headers=headers).status_code == 401
        assert client.post(f"/v1/ner?key={key}", json=ASK).status_code == 401
        assert "expired" in client.post("/v1/ner", json=ASK, headers=bearer(old)).json()["detail"]
        basic = base64.b64encode(f"anybody:{key}".encode()).decode()
        for headers in (bearer(key), {"X-API-Key": key}, {"Authorization": f"Basic {basic}"}, {"Authorization": f"bearer  {key}"}):
            assert client.post("/v1/ner", json=ASK, headers=headers).status_code == 200
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200


def test_every_route_of_every_task_is_behind_the_gate_but_those_that_say_that_the_process_lives(tmp_path: Path, file: KeyFile) -> None:
    bundles = [make_fake_bundle(tmp_path, name=task, task=task) for task in ("ner", "classify", "qa", "rerank", "embedding")]
    key, _ = file.create(name="", scopes=["*"])
    nothing: Any = None
    pages = [*list_page_routes(), *Admin(nothing, gate=nothing, folders=(), has_keys=True, slowest=tmp_path).routes()]
    asked = {(route.path, method) for route in pages for method in route.methods or ()}
    settings = ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0, keys=str(file.path))
    with Supervisor(settings) as server, httpx.Client(base_url=server.url) as client:
        described = client.get("/openapi.json", headers=bearer(key)).json()["paths"]
        asked |= {(path, method.upper()) for path, methods in described.items() for method in methods}
        assert len(asked) > 40
        for path, method in asked:
            status = client.request(method, path.replace("{", "").replace("}", ""), content=b"{}").status_code
            assert (status, path) == (200 if path in ("/health/live", "/v2/health/live") else 401, path), method


def test_a_key_opens_what_its_scopes_say(tmp_path: Path, file: KeyFile) -> None:
    one, two = (make_fake_bundle(tmp_path, name=name) for name in ("one", "two"))
    by_model, _ = file.create(name="", scopes=["model:one"])
    other, _ = file.create(name="", scopes=["classify"])
    metrics, _ = file.create(name="", scopes=["metrics"])
    everything, _ = file.create(name="", scopes=["*"])
    with Supervisor(ServeSettings(bundles=(str(one.path), str(two.path)), port=0, keys=str(file.path))) as server:
        def ask(key: str, model: str) -> int:
            return httpx.post(f"{server.url}/v1/ner", json={**ASK, "model": model}, headers=bearer(key)).status_code

        assert [ask(by_model, "one"), ask(by_model, "two")] == [200, 403]
        assert [ask(other, "one"), ask(everything, "two")] == [403, 200]
        assert [httpx.get(f"{server.url}/metrics", headers=bearer(key)).status_code for key in (metrics, by_model)] == [200, 403]


def test_a_revoked_key_is_refused_by_a_running_server(tmp_path: Path, file: KeyFile) -> None:
    secret, key = file.create(name="", scopes=["ner"])
    bundle = make_fake_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(file.path))) as server:
        assert httpx.post(f"{server.url}/v1/ner", json=ASK, headers=bearer(secret)).status_code == 200
        file.revoke(key.id)
        late, _ = file.create(name="", scopes=["ner"])
        time.sleep(0.7)
        refused = httpx.post(f"{server.url}/v1/ner", json=ASK, headers=bearer(secret))
        assert (refused.status_code, "revoked" in refused.json()["detail"]) == (401, True)
        assert httpx.post(f"{server.url}/v1/ner", json=ASK, headers=bearer(late)).status_code == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_again(tmp_path: Path, file: KeyFile) -> None:
    slow, _ = file.create(name="", scopes=["ner"], rate_per_s=2)
    fast, _ = file.create(name="", scopes=["ner"])
    bundle = make_fake_bundle(tmp_path)
    with (
        Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(file.path))) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        answers = [client.post("/v1/ner", json=ASK, headers=bearer(slow)) for _ in range(6)]
        assert [one.status_code for one in answers][:2] == [200, 200]
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.post("/v1/ner", json=ASK, headers=bearer(fast)).status_code == 200


def test_a_rate_holds_over_all_workers_and_each_lets_all_of_it_through(tmp_path: Path, file: KeyFile) -> None:
    keys = [file.create(name="", scopes=["ner"], rate_per_s=10)[0] for _ in range(2)]
    bundle = make_fake_bundle(tmp_path, workers=2)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(file.path))) as server:
        assert server.n_workers == 2
        with httpx.Client(base_url=server.url) as client:  # one connection is one worker's
            first = [client.post("/v1/ner", json=ASK, headers=bearer(keys[0])).status_code for _ in range(10)]
            assert first == [200] * 10
            began = time.monotonic()
            headers = bearer(keys[1]) | {"Connection": "close"}
            spread = [client.post("/v1/ner", json=ASK, headers=headers).status_code for _ in range(100)]
            took_s = time.monotonic() - began
        allowed = 10 + 10 * took_s
        assert min(allowed, 100) - 2 <= spread.count(200) <= allowed + 1, (spread.count(200), took_s)


def test_without_keys_a_server_listens_on_loopback_only() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(InvalidValue, match="without keys"):
            ServeSettings(bundles=("a",), host=host)
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        ServeSettings(bundles=("a",), host=host)
    ServeSettings(bundles=("a",), host="0.0.0.0", keys="keys.json")


def test_a_server_with_an_empty_file_of_keys_does_not_start(tmp_path: Path, file: KeyFile) -> None:
    bundle = make_fake_bundle(tmp_path)
    with pytest.raises(InvalidValue, match="millis keys create"):
        Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(file.path)))


def test_keys_are_made_listed_and_revoked_at_the_command_line(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")

    def run(*arguments: str) -> object:
        done = CliRunner().invoke(app, ["keys", *arguments, "--file", file, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert "no key in" in CliRunner().invoke(app, ["keys", "list", "--file", file]).stdout
    made = run("create", "--scope", "ner", "--scope", "metrics", "--expires", "90d", "--rate", "100/s", "--quota", "10000/day", "--name", "shop")
    assert isinstance(made, dict)
    listed = run("list")
    assert isinstance(listed, list)
    assert (listed[0]["id"], listed[0]["state"], listed[0]["rate_per_s"]) == (made["id"], "valid", 100.0)
    assert listed[0]["expires"] - listed[0]["created"] == pytest.approx(90 * 86400)
    assert made["key"] not in json.dumps(listed)
    shown = CliRunner().invoke(app, ["keys", "list", "--file", file]).stdout
    assert "ner, metrics" in shown
    assert "100/s, 10,000/day  shop" in shown
    run("create", "--scope", "admin:load")
    assert "any rate, no quota" in CliRunner().invoke(app, ["keys", "list", "--file", file]).stdout
    typo = CliRunner().invoke(app, ["keys", "create", "--scope", "nerr", "--file", file])
    assert "there is no scope 'nerr': give one of classify, embedding, ner" in str(typo.exception)
    assert len(run("list")) == 2  # type: ignore[arg-type]
    run("revoke", made["id"])
    assert run("list")[0]["state"] == "revoked"  # type: ignore[index]


def test_ask_brings_a_key_to_a_server(tmp_path: Path, file: KeyFile) -> None:
    secret, _ = file.create(name="", scopes=["ner"])
    bundle = make_fake_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(file.path))) as server:
        for arguments, env, code in ((["--key", secret], {}, 0), ([], {"MILLIS_KEY": secret}, 0), ([], {}, 2), (["--key", "mk_x_y"], {}, 2)):
            done = subprocess.run(
                [sys.executable, "-m", "millis", "ask", server.url, "maria wrote", *arguments], env={**os.environ, **env}, capture_output=True, text=True
            )
            assert done.returncode == code, done.stderr
            assert secret not in done.stdout + done.stderr
        assert "401" in done.stderr
        assert "key" in done.stderr


@pytest.mark.parametrize(
    "settings",
    [{"name": "a\nb"}, {"name": "\x1b[31m"}, {"name": "x" * 201}, {"expires_s": 86400.0 * 365 * 101}, {"expires_s": float("nan")}, {"rate_per_s": -1.0}, {"rate_per_s": 1e-9}],
)
def test_what_a_key_cannot_have_is_refused_and_no_key_is_made(file: KeyFile, settings: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match=r"a key cannot have|scopes"):
        file.create(**{"name": "", "scopes": ["ner"], **settings})  # type: ignore[arg-type]
    assert not file.path.exists()


@pytest.mark.parametrize("path", ["/", ".", "folder"])
def test_a_folder_is_no_file_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidValue, match=r"no file of keys|cannot be read"):
        KeyFile(path).create(name="", scopes=["ner"])
