"""Models that come and go while a server runs, through its front door: real processes, real sockets."""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from running import MODELS, Site

import millis
from fitting import run_millis
from making import LABELS_OF, break_tokenizer, forge, make_fake_bundle
from millis.bundles import Bundle, Rung, save_bundle
from millis.contract import Contract
from millis.errors import InvalidRequest, InvalidValue
from millis.measuring.bench import offer_load
from millis.measuring.fingerprint import fingerprint
from millis.security.verifying import verify
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle

pytestmark = pytest.mark.slow

@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("live")
    with Site(folder, make_fake_bundle(folder), workers=2).running() as running:
        yield running


def problem(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = response.json()["detail"]
    return detail


def test_a_model_is_loaded_by_every_worker_and_unloaded_again(site: Site) -> None:
    path = site.make("other", name="other")
    loaded = site.load("other/other.millis")
    assert loaded.status_code == 201, loaded.text
    assert [one["name"] for one in loaded.json()["data"]] == ["fake", "other"]
    assert loaded.json()["data"][1]["serving"]["path"] == str(path)
    for _ in range(40):  # new connections, so that both workers are asked
        answer = httpx.post(f"{site.server.url}/v1/ner", json={"input": "maria", "model": "other"}, headers={"X-API-Key": site.user})
        assert (answer.status_code, answer.json()["model"]) == (200, "other")
        assert site.ask().json()["model"] == "fake"  # who names none is answered as before
    assert {one["id"] for one in site.http.get("/v1/models").json()["data"]} == {"fake", "other"}
    assert site.http.get("/v2/models/other/ready").status_code == 200
    assert "/v2/models/other/infer" in site.http.get("/openapi.json").json()["paths"]
    assert site.http.delete(f"{MODELS}/other").status_code == 200
    for _ in range(40):
        gone = httpx.post(f"{site.server.url}/v1/ner", json={"input": "maria", "model": "other"}, headers={"X-API-Key": site.user})
        assert gone.status_code == 404
    assert site.http.get("/v2/models/other/ready").status_code == 404
    assert "/v2/models/other/infer" not in site.http.get("/openapi.json").json()["paths"]
    assert site.ask().json()["model"] == "fake"


def test_the_audit_log_says_who_loaded_which_model(tmp_path: Path) -> None:
    site = Site(tmp_path, make_fake_bundle(tmp_path), audit=str(tmp_path / "audit"))
    with site.running():
        site.make("other", name="other")
        assert site.load("other/other.millis").status_code == 201
    lines = [json.loads(line) for file in (tmp_path / "audit").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert [(one["what"], one["on"], one["outcome"], one["who"] in site.admin) for one in lines] == [(f"POST {MODELS}", "other", "201", True)]
    assert not verify(tmp_path / "audit").problems


def test_models_are_changed_from_the_command_line_and_the_client(site: Site) -> None:
    site.make("third", name="third")
    site.make("newer", name="third")
    flags = ("--url", site.server.url, "--key", site.admin)
    loaded = run_millis("models", "load", "third/third.millis", *flags, "--json")
    assert loaded.returncode == 0, loaded.stderr
    assert [one["name"] for one in json.loads(loaded.stdout)["data"]] == ["fake", "third"]
    refused = run_millis("models", "load", "/etc", *flags)
    assert (refused.returncode, "--models-from" in refused.stderr) == (2, True)
    with millis.Client(site.server.url, key=site.admin) as client:
        trial = client.load_model("newer/third.millis", canary_percent=50)
        assert trial[1]["canary_percent"] == 50
        assert client.roll_back_model("third")[1]["state"] == "serving"
        with pytest.raises(InvalidValue, match="canary_percent cannot be nan: give a number from 0 to 100"):
            client.load_model("newer/third.millis", canary_percent=float("nan"))
        with pytest.raises(InvalidRequest, match="no version of third is on trial"):
            client.promote_model("third")
    listed = run_millis("models", "list", *flags).stdout
    assert "third: serving; version" in listed
    assert "it was rolled back by hand" in listed
    assert run_millis("models", "unload", "third", *flags).returncode == 0
    with millis.Client(site.server.url, key=site.admin) as client:
        assert [one["name"] for one in client.versions()] == ["fake"]


def test_a_model_may_be_given_another_name(site: Site) -> None:
    site.make("renamed", name="whatever")
    assert site.load("renamed/whatever.millis", name="people").status_code == 201
    assert site.ask(model="people").json()["model"] == "people"
    assert site.http.delete(f"{MODELS}/people").status_code == 200


def test_only_the_scope_admin_changes_anything(site: Site) -> None:
    site.make("forbidden", name="forbidden")
    with site.client(site.user) as http:
        for method, route in (
            ("GET", MODELS), ("POST", MODELS), ("DELETE", f"{MODELS}/fake"), ("POST", f"{MODELS}/fake/rollback"),
            ("POST", f"{MODELS}/fake/promote"), ("GET", "/v1/admin/nothing"),
        ):  # fmt: skip
            detail = problem(http.request(method, route, json={"path": "forbidden/forbidden.millis"}), 403)
            assert "admin" in detail
    assert httpx.get(f"{site.server.url}{MODELS}").status_code == 401


def test_a_key_for_one_action_does_that_and_no_other(site: Site) -> None:
    site.make("deed", name="deed")
    asked: dict[str, tuple[str, str]] = {
        "read": ("GET", MODELS), "load": ("POST", MODELS), "promote": ("POST", f"{MODELS}/deed/promote"),
        "rollback": ("POST", f"{MODELS}/deed/rollback"), "unload": ("DELETE", f"{MODELS}/deed"),
    }  # fmt: skip
    keys = {action: site.keys.create(name=action, scopes=[f"admin:{action}"])[0] for action in asked}
    time.sleep(0.6)  # until workers look at the keys again
    for action, key in keys.items():
        with site.client(key) as http:
            statuses = {one: http.request(*asked[one], json={"path": "deed/deed.millis"}).status_code for one in asked if one != action}
            assert set(statuses.values()) == {403}, statuses
            own = http.request(*asked[action], json={"path": "deed/deed.millis"})
            assert own.status_code in (200, 201, 409), own.text  # 409: there is no other version
            assert http.get("/v1/admin/slowest").status_code == (200 if action == "read" else 403)
            assert http.get("/metrics").status_code == 403
    assert "deed" not in {one["name"] for one in site.http.get(MODELS).json()["data"]}


def test_a_page_from_elsewhere_cannot_use_a_browsers_key(site: Site) -> None:
    for method, route in (("POST", MODELS), ("DELETE", f"{MODELS}/fake"), ("POST", f"{MODELS}/fake/rollback")):
        for origin in ("https://evil.example", "null", "http://["):
            assert "another site" in problem(site.http.request(method, route, headers={"Origin": origin}), 403)
    own = site.http.post(f"{MODELS}/nobody/rollback", headers={"Origin": site.server.url})
    problem(own, 404)


def test_paths_elsewhere_are_refused_whether_anything_is_there_or_not(site: Site, tmp_path: Path) -> None:
    outside = make_fake_bundle(tmp_path, name="outside").path
    (site.folder / "link").symlink_to(tmp_path)
    for path in (outside, "/etc/passwd", "../../etc/passwd", "/nothing/there", "link/outside.millis", "..", ".", "", "a\0b"):
        detail = problem(site.load(str(path)), 403)
        assert "--models-from" in detail
        assert "passwd" not in detail


def test_a_bundle_that_fails_its_hashes_is_refused_by_name(site: Site) -> None:
    path = site.make("altered", name="altered")
    file = path / "rungs/fake/fake.json"
    file.write_bytes(file.read_bytes().replace(b"0.0", b"9.9"))
    detail = problem(site.load(path), 422)
    assert "rungs/fake/fake.json" in detail
    assert "altered" in detail
    assert "does not exist" in problem(site.load("nowhere.millis"), 422)
    assert [one["name"] for one in site.http.get(MODELS).json()["data"]] == ["fake"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 422), (b"{}", 422), (b'{"path": 3}', 422), (b'{"path": "a", "more": 1}', 422), (b"\xff", 400),
        (b'{"path": "a", "canary_percent": 101}', 422), (b'{"path": "a", "shadow_percent": -1}', 422), (b'{"path": "a", "name": "../x"}', 422),
        (b'{"path": "a", "canary_percent": NaN}', 400), (b'{"path": "' + b"x" * 20_000 + b'"}', 413), (b"[" * 9_000, 422),
    ],
)  # fmt: skip
def test_what_loads_nothing_gets_a_problem(site: Site, content: bytes, status: int) -> None:
    problem(site.http.post(MODELS, content=content), status)


def test_changes_that_cannot_be_are_conflicts(site: Site) -> None:
    site.make("classes", name="classes", task="classify")
    assert "classify" in problem(site.load("classes/classes.millis", name="fake"), 409)
    assert "compared with" in problem(site.load("classes/classes.millis", canary_percent=5), 409)
    assert "only model" in problem(site.http.delete(f"{MODELS}/fake"), 409)
    assert "on trial" in problem(site.http.post(f"{MODELS}/fake/promote"), 409)
    assert "go back to" in problem(site.http.post(f"{MODELS}/fake/rollback"), 409)
    problem(site.http.delete(f"{MODELS}/nobody"), 404)
    path = site.make("same", name="same")
    assert site.load(path).status_code == 201
    assert "served from that folder" in problem(site.load(path, name="fake"), 409)
    assert site.http.delete(f"{MODELS}/same").status_code == 200


def test_without_keys_nothing_can_be_loaded(tmp_path: Path, server: Supervisor) -> None:
    with pytest.raises(InvalidValue, match="--keys"):
        ServeSettings(bundles=("a.millis",), models_from=(str(tmp_path),))
    for route in (MODELS, f"{MODELS}/fake/rollback"):
        assert "--keys" in problem(httpx.post(f"{server.url}{route}", json={"path": "a"}), 403)


def test_a_new_version_gets_its_share_and_is_rolled_back_by_hand(site: Site) -> None:
    site.make("second", name="fake")
    loaded = site.load("second/fake.millis", canary_percent=25)
    assert loaded.status_code == 201, loaded.text
    number = str(site.state()["trial"]["number"])
    assert site.state()["state"] == "on trial"
    mix = Counter(site.ask().headers["x-millis-version"] for _ in range(40))
    assert mix[number] == 10
    site.make("third", name="fake")
    assert "on trial" in problem(site.load("third/fake.millis"), 409)
    assert site.load("second/fake.millis", canary_percent=0, shadow_percent=100).status_code == 201  # other shares
    assert site.state()["trial"]["number"] == int(number)
    assert site.state()["history"][-1].endswith("the version on trial was given other shares")
    assert {site.ask().headers["x-millis-version"] for _ in range(20)} == {"1"}
    assert site.http.post(f"{MODELS}/fake/rollback").status_code == 200
    assert site.state()["state"] == "serving"
    assert {site.ask().headers["x-millis-version"] for _ in range(20)} == {"1"}


def test_answers_are_compared_behind_the_clients_back(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path)).running() as site:
        path = site.make("slow", name="fake", delay_ms=100)
        assert site.load(path, shadow_percent=100).status_code == 201
        began = time.monotonic()
        answers = [site.ask() for _ in range(2)]
        assert time.monotonic() - began < 0.1 + 0.2  # at most one shadow runs before the second request is read
        assert [one.status_code for one in answers] == [200, 200]
        agreed = 'millis_trials_total{model="fake",outcome="agrees"} 2.0'
        site.wait(lambda: agreed in site.http.get("/metrics").text)
        assert site.http.post(f"{MODELS}/fake/rollback").status_code == 200
        other = site.make("other-labels", name="fake")
        fake = other / "rungs/fake/fake.json"
        fake.write_text(json.dumps(json.loads(fake.read_text()) | {"labels": 4}))
        assert site.load(other, shadow_percent=50).status_code == 422  # it does not even fit its hashes


def ask_many(site: Site, n: int) -> Counter[int]:
    with ThreadPoolExecutor(4) as pool, site.client(site.user) as http:
        answers = pool.map(lambda _: http.post("/v1/ner", json={"input": "maria"}).status_code, range(n))
        return Counter(answers)


def test_a_version_that_keeps_its_contract_takes_over_and_the_former_is_let_go(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path), workers=2).running() as site:
        site.make("second", name="fake")
        assert site.load("second/fake.millis", canary_percent=100).status_code == 201
        statuses = Counter[int]()
        ends_at = time.monotonic() + 30
        while time.monotonic() < ends_at:
            statuses += ask_many(site, 100)
            if site.state()["former"] is None and site.state()["trial"] is None:
                break
        assert set(statuses) == {200}
        state = site.state()
        assert (state["state"], state["serving"]["number"]) == ("serving", 2)
        took_over, proven = state["history"][-2:]
        assert "beside the other" in took_over
        assert "under all requests" in proven
        assert site.ask().headers["x-millis-version"] == "2"


def test_a_version_that_breaks_its_contract_is_rolled_back_by_itself_and_no_client_fails(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path, p99="1 s")).running() as site:
        site.make("slow", name="fake", delay_ms=30, p99="20 ms")
        assert site.load("slow/fake.millis", canary_percent=50).status_code == 201
        statuses = Counter[int]()
        for _ in range(20):
            statuses += ask_many(site, 20)
            if site.state()["trial"] is None:
                break
        assert set(statuses) == {200}
        assert "broke its contract" in site.state()["history"][-1]
        assert {site.ask().headers["x-millis-version"] for _ in range(5)} == {"1"}


def test_what_clients_allow_less_than_the_contract_is_not_held_against_a_new_version(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path, p99="1 s")).running() as site:
        site.make("slower", name="fake", delay_ms=120, p99="1 s")
        assert site.load("slower/fake.millis", canary_percent=100).status_code == 201
        for _ in range(30):  # the new version cannot, the old one does
            answer = site.http.post("/v1/ner", json={"input": "maria"}, headers={"X-Deadline-Ms": "80"})
            assert (answer.status_code, answer.headers["x-millis-version"]) == (200, "1")
        time.sleep(0.6)
        assert (site.state()["state"], site.state()["n_missed"]) == ("on trial", 0)


@pytest.mark.slow
def test_a_version_promoted_by_hand_that_breaks_its_contract_gives_way_to_the_former(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path, p99="1 s")).running() as site:
        site.make("slow", name="fake", delay_ms=30, p99="20 ms")
        assert site.load("slow/fake.millis", shadow_percent=1).status_code == 201
        assert site.http.post(f"{MODELS}/fake/promote").status_code == 200
        assert site.ask().headers["x-millis-version"] == "2"
        assert site.state()["state"] == "taken over, not proven yet"
        for _ in range(40):
            assert set(ask_many(site, 10)) <= {200, 503}  # twenty milliseconds are promised by now
            if site.state()["former"] is None:
                break
        assert "was rolled back" in site.state()["history"][-1]
        assert site.ask().headers["x-millis-version"] == "1"


def test_a_version_that_took_over_and_fails_on_requests_is_rolled_back_by_itself(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path, p99="1 s")).running() as site:
        broken = make_fake_bundle(site.folder / "broken", p99="1 s")
        break_tokenizer(broken)
        assert site.load(broken.path, shadow_percent=1).status_code == 201
        assert site.http.post(f"{MODELS}/fake/promote").status_code == 200
        statuses = Counter[int]()
        for _ in range(40):
            statuses += Counter(site.http.post("/v1/ner", json={"input": "zebra"}).status_code for _ in range(20))
            if site.state()["former"] is None:
                break
        assert 500 in statuses
        assert set(statuses) <= {200, 500}, "200 where it was rolled back before the last of twenty"
        assert "was rolled back" in site.state()["history"][-1]
        answer = site.http.post("/v1/ner", json={"input": "zebra"})
        assert (answer.status_code, answer.headers["x-millis-version"]) == (200, "1")


def test_a_worker_that_starts_again_comes_up_with_what_is_served_now(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path), workers=2).running() as site:
        site.make("other", name="other")
        site.make("second", name="fake")
        assert site.load("other/other.millis").status_code == 201
        assert site.load("second/fake.millis", canary_percent=100).status_code == 201
        for pid in tuple(site.server.pids):
            n_before = site.server.n_restarts
            os.kill(pid, signal.SIGKILL)
            site.wait(lambda n=n_before: site.server.n_restarts > n)  # type: ignore[misc]

        def is_served() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.post(f"{site.server.url}/v1/ner", json={"input": "maria", "model": "other"}, headers={"X-API-Key": site.user}).status_code == 200
            return False

        site.wait(is_served)
        for _ in range(20):
            answer = httpx.post(f"{site.server.url}/v1/ner", json={"input": "maria", "model": "fake"}, headers={"X-API-Key": site.user})
            assert (answer.status_code, answer.headers["x-millis-version"]) == (200, "3")


def test_who_stands_by_has_loaded_what_came_meanwhile(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path), workers=1, standby=True).running() as site:
        site.wait(lambda: bool(site.server.standby_pids))
        standby = site.server.standby_pids
        site.make("second", name="fake")
        assert site.load("second/fake.millis").status_code == 201
        assert site.http.post(f"{MODELS}/fake/promote").status_code == 200
        os.kill(site.server.pids[0], signal.SIGKILL)
        site.wait(lambda: site.server.ready_pids == standby)
        answer = httpx.post(f"{site.server.url}/v1/ner", json={"input": "maria"}, headers={"X-API-Key": site.user})
        assert (answer.status_code, answer.headers["x-millis-version"]) == (200, "2")


@pytest.mark.slow
def test_a_worker_finds_another_bundle_where_one_was_served_and_the_others_go_on_until_it_is_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = make_fake_bundle(tmp_path)
    shutil.copytree(bundle.path, tmp_path / "kept")
    with Site(tmp_path, bundle, workers=2).running() as site:
        forge(bundle, notes=("another",))
        os.kill(site.server.pids[0], signal.SIGKILL)
        site.wait(lambda: "is another bundle" in capfd.readouterr().err)
        assert set(ask_many(site, 20)) == {200}
        assert len(site.server.ready_pids) == 1
        shutil.rmtree(bundle.path)
        shutil.copytree(tmp_path / "kept", bundle.path)
        site.wait(lambda: len(site.server.ready_pids) == 2)
        assert set(ask_many(site, 20)) == {200}


@pytest.mark.slow
def test_a_worker_starts_again_from_a_bundle_that_was_proven_meanwhile(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    with Site(tmp_path, bundle, workers=1).running() as site:
        certify(bundle, cpu=fingerprint().cpu)
        os.kill(site.server.pids[0], signal.SIGKILL)
        site.wait(lambda: site.server.n_restarts > 0 and len(site.server.ready_pids) == 1)
        assert set(ask_many(site, 5)) == {200}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [0, 2])
def test_reloading_under_load_fails_no_request(tmp_path: Path, threads: int) -> None:
    site = Site(tmp_path, make_fake_bundle(tmp_path, delay_ms=2), workers=2, threads=threads)
    with site.running(), ThreadPoolExecutor(1) as pool:
        payload = json.dumps({"input": "maria"}).encode()
        running = pool.submit(
            offer_load, f"{site.server.url}/v1/ner", bodies=[payload], rate_per_s=100, n_requests=600,
            headers=[("X-API-Key", site.user)],
        )  # fmt: skip
        time.sleep(1.0)
        site.make("second", name="fake", delay_ms=2)
        assert site.load("second/fake.millis", canary_percent=50).status_code == 201
        assert site.http.post(f"{MODELS}/fake/promote").status_code == 200
        assert site.http.post(f"{MODELS}/fake/rollback").status_code == 200
        site.make("third", name="third")
        assert site.load("third/third.millis").status_code == 201
        assert site.http.delete(f"{MODELS}/third").status_code == 200
        assert site.load("second/fake.millis", canary_percent=100).status_code == 201
        assert not running.done()
        load = running.result()
    assert (load.n_ok, load.n_requests) == (600, 600), load.statuses


def make_heavy_bundle(folder: Path) -> Path:
    """Write a bundle of 40 MB for OpenVINO."""
    import openvino as ov
    from openvino import opset13 as ops

    width, hidden, n_labels = 64, 80_000, len(LABELS_OF["ner"])
    plain = make_fake_bundle(folder / "plain", name="plain")
    draw = np.random.default_rng(7)
    embeds = ops.parameter([-1, -1, width], np.float32, name="inputs_embeds")
    inside = ops.relu(ops.matmul(embeds, draw.normal(size=(width, hidden)).astype(np.float32), False, False))
    logits = ops.matmul(inside, draw.normal(size=(hidden, n_labels)).astype(np.float32), False, False)
    files = folder / "network"
    files.mkdir()
    ov.save_model(ov.Model([logits], [embeds], "heavy"), files / "model.xml", compress_to_fp16=False)
    np.save(files / "embeddings.npy", draw.normal(size=(200, width)).astype(np.float32))
    rung = Rung(name="heavy", backend="openvino", precision="fp32", folder="rungs/heavy", buckets=(16, 32))
    manifest = msgspec.structs.replace(plain.manifest, name="heavy", rungs=(rung,), rung="heavy", files={})
    parts = {"tokenizer.json": plain.path / "tokenizer.json", "rungs/heavy": files}
    return save_bundle(folder / "heavy.millis", manifest=manifest, parts=parts).path


@pytest.mark.slow
def test_the_memory_of_unloaded_models_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLIS_CACHE", str(tmp_path / "cache"))
    with Site(tmp_path, make_fake_bundle(tmp_path)).running() as site:
        path = make_heavy_bundle(site.folder)

        def resident_mb() -> float:
            status = Path(f"/proc/{site.server.pids[0]}/status").read_text()
            return int(status.split("VmRSS:")[1].split()[0]) / 1000

        loaded, unloaded = [], []
        for _ in range(20):
            assert site.load(path).status_code == 201
            assert site.ask(model="heavy").status_code == 200
            loaded.append(resident_mb())
            assert site.http.delete(f"{MODELS}/heavy").status_code == 200
            time.sleep(0.2)  # it is closed behind the answer
            unloaded.append(resident_mb())
    assert min(loaded) - max(unloaded) > 10, (loaded, unloaded)
    assert max(unloaded[1:]) - unloaded[0] < 8, unloaded


def test_on_another_machine_the_rungs_are_timed_again_and_it_is_said_what_was_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=3.0, buckets=(8, 32), faster_ms=1.0)
    certify(bundle, cpu="another processor")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        stop = threading.Event()
        stop.set()
        server.watch_until(stop)
        model = httpx.get(f"{server.url}/v1/models").json()["data"][0]
    found = model["timed_here"]
    assert any("another processor" in one for one in found["differs"])
    assert [row["tokens"] for row in found["latency"]] == [8, 32]
    assert 3.0 <= found["expected_ms"] < 1000.0
    assert found["bound_ms"] == 1000.0
    assert "another processor" in capfd.readouterr().err


def certify(bundle: Bundle, *, cpu: str) -> None:
    """Give a bundle a certificate that was measured on this processor."""
    from millis.bundles import Certificate
    from millis.bundles.saving import certify as write
    from millis.contract import Clause, judge

    machine = msgspec.to_builtins(msgspec.structs.replace(fingerprint(), cpu=cpu))
    verdict = msgspec.to_builtins(judge([Clause(name="p99", status="kept", detail="")]))
    certificate = Certificate(
        contract=bundle.manifest.contract, verdict=verdict, measurement={}, machine=machine, rung=bundle.manifest.rung,
        serving=bundle.manifest.serving, command="", created="", versions={}, subject=bundle.subject(),
    )  # fmt: skip
    write(bundle, certificates=[certificate])


def test_the_copy_of_a_served_bundle_may_be_loaded_as_its_new_version(site: Site) -> None:
    shutil.copytree(site.settings.bundles[0], site.folder / "copy.millis")
    assert site.load("copy.millis", canary_percent=0, shadow_percent=0).status_code == 201
    assert site.http.post(f"{MODELS}/fake/rollback").status_code == 200


@pytest.mark.slow
def test_a_server_is_ready_when_it_just_answered_within_its_contract(tmp_path: Path) -> None:
    quick, slow = (make_fake_bundle(tmp_path, name=name, delay_ms=ms, p99="40 ms") for name, ms in (("quick", 0), ("slow", 80)))
    with Supervisor(ServeSettings(bundles=(str(quick.path),), port=0)) as server:
        assert httpx.get(f"{server.url}/health").json()["models"]["quick"]["by"] == "its example"
        assert httpx.post(f"{server.url}/v1/ner", json={"input": "maria"}).status_code == 200
        assert httpx.get(f"{server.url}/health").json()["models"]["quick"]["by"] == "a request"
    with Supervisor(ServeSettings(bundles=(str(slow.path),), port=0)) as server:
        assert httpx.post(f"{server.url}/v1/ner", json={"input": "maria"}).status_code == 200
        assert "promises 40 ms" in problem(httpx.get(f"{server.url}/health"), 503)
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
        assert httpx.get(f"{server.url}/health/live").status_code == 200


def test_a_model_that_chats_comes_and_goes_beside_the_others(tmp_path: Path) -> None:
    with Site(tmp_path, make_fake_bundle(tmp_path), workers=2).running() as site:
        assert site.load(make_echo_bundle(site.folder).path).status_code == 201
        asked = {"model": "echo", "prompt": "abc", "max_tokens": 3}
        with site.client(site.talker) as http:
            assert http.post("/v1/completions", json=asked).json()["choices"][0]["text"] == "abc"
        other = make_echo_bundle(site.folder / "newer", contract=Contract(p99="2 s"))
        refused = site.load(other.path)
        assert refused.status_code == 409
        assert "another name" in refused.json()["detail"]
        assert site.ask().status_code == 200
        assert site.http.delete(f"{MODELS}/echo").status_code == 200
        with site.client(site.talker) as http:
            assert http.post("/v1/completions", json=asked).status_code == 404
        assert site.ask().status_code == 200


def test_a_chat_under_way_ends_before_its_model_is_let_go(tmp_path: Path) -> None:
    chats = make_echo_bundle(tmp_path, context=200_000)
    with Site(tmp_path, make_fake_bundle(tmp_path), chats).running() as site:
        asked = {"prompt": "wxyz " * 4000, "max_tokens": 20_000, "stream": True}
        with site.client(site.talker) as http, http.stream("POST", "/v1/completions", json=asked) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            assert site.http.delete(f"{MODELS}/echo").status_code == 200
            rest = list(lines)
        assert first.startswith("data: ")
        assert rest[-2] == "data: [DONE]"
        assert not any("error" in line for line in rest)
