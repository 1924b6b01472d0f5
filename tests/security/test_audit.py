"""The audit log: what is in it, and what a changed one shows."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from making import ask_raw, make_fake_bundle, watched
from millis.errors import InvalidData, InvalidValue, RunFailed
from millis.security.audit import AuditLog
from millis.security.keys import KeyFile
from millis.security.verifying import verify
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor


def write_log(folder: Path, n: int = 5) -> Path:
    log = AuditLog(folder)
    for i in range(n):
        log.tell("POST /v1/ner", outcome="200", who="shop", on=f"model-{i}")
        log.write()
    return next(folder.glob("*.jsonl"))


def change(file: Path, edit: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(edit(file.read_text().splitlines(keepends=True))))


def test_a_log_that_nobody_touched_is_whole(tmp_path: Path) -> None:
    write_log(tmp_path / "log", 5)
    write_log(tmp_path / "log", 3)
    found = verify(tmp_path / "log")
    assert (found.files, found.lines, found.problems) == (2, 8, ())


@pytest.mark.parametrize(
    ("edit", "line", "words"),
    [
        (lambda rows: [row.replace("model-2", "model-9") for row in rows], 3, "was changed"),
        (lambda rows: rows[:1] + rows[2:], 2, "removed"),
        (lambda rows: rows[1:], 1, "removed"),
        (lambda rows: rows[:-1], 4, "1 lines are missing at the end"),
        (lambda rows: [], 0, "5 lines are missing at the end"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], 1, "was changed"),
        (lambda rows: [*rows, rows[-1]], 6, "put in"),
        (lambda rows: [rows[0].replace('"outcome":"200"', '"outcome":"403","outcome":"200"'), *rows[1:]], 1, "was changed"),
        (lambda rows: [*rows[:4], rows[4].replace(',"seal"', ', "seal"')], 5, "was changed"),
        (lambda rows: [rows[0], rows[1].replace('"seal":"', '"seal":"é'), *rows[2:]], 2, "was changed"),
        (lambda rows: [*rows[:2], "nonsense\n", *rows[2:]], 3, "no line of an audit log"),
    ],
)
def test_a_line_that_was_changed_removed_or_put_in_is_found(tmp_path: Path, edit: Callable[[list[str]], list[str]], line: int, words: str) -> None:
    file = write_log(tmp_path / "log")
    change(file, edit)
    (problem,) = verify(tmp_path / "log").problems
    assert problem.startswith(f"{file.name}:{line}: ")
    assert words in problem


def test_a_file_or_a_head_that_is_gone_is_missed(tmp_path: Path) -> None:
    file = write_log(tmp_path / "a")
    file.unlink()
    assert "the whole file is missing" in verify(tmp_path / "a").problems[0]
    file = write_log(tmp_path / "b")
    file.with_suffix(".head").unlink()
    assert "head" in verify(tmp_path / "b").problems[0]
    file = write_log(tmp_path / "c")
    head = json.loads(file.with_suffix(".head").read_text())
    file.with_suffix(".head").write_text(json.dumps({**head, "n": 2}))
    assert "head" in verify(tmp_path / "c").problems[0]


def test_a_file_that_is_gone_together_with_its_head_is_missed(tmp_path: Path) -> None:
    for place in ("same", "elsewhere"):
        folder, seals = tmp_path / place, tmp_path / ("same" if place == "same" else "seals")
        for _ in range(3):
            log = AuditLog(folder, seals=seals)
            log.tell("POST /v1/ner", outcome="200")
            log.write()
        assert verify(folder, seals=seals).problems == ()
        first, *_, last = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
        for file in (first, last):
            file.unlink()
            (seals / f"{file.stem}.head").unlink()
        problems = verify(folder, seals=seals).problems
        assert sorted(problems) == sorted(f"{file.name}: the whole file is missing" for file in (first, last))
        (seals / "audit.files").unlink()
        assert "the register is missing" in verify(folder, seals=seals).problems[0]
        log = AuditLog(folder, seals=seals)  # a server goes on, and makes a new one
        log.tell("POST /v1/ner", outcome="200")
        log.write()
        assert "is not in the register" in verify(folder, seals=seals).problems[0]


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_file_in_the_place_of_another_is_told(tmp_path: Path, is_apart: bool) -> None:
    folder, seals = tmp_path / "log", tmp_path / ("seals" if is_apart else "log")
    for n in (3, 5):
        log = AuditLog(folder, seals=seals)
        for _ in range(n):
            log.tell("POST /v1/ner", outcome="200")
        log.write()
    fewer, more = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_size)
    shutil.copy(more, fewer)
    if not is_apart:
        shutil.copy(more.with_suffix(".head"), fewer.with_suffix(".head"))
    (problem,) = verify(folder, seals=seals).problems
    assert problem.startswith(f"{fewer.name}:1: was changed")


def test_a_register_that_was_edited_or_put_back_is_told(tmp_path: Path) -> None:
    write_log(tmp_path)
    older = (tmp_path / "audit.files").read_text()
    write_log(tmp_path)
    (tmp_path / "audit.files").write_text(older)
    (problem,) = verify(tmp_path).problems
    assert "is not in the register: it was put in, or the register is an older one" in problem
    said = json.loads(older)
    (tmp_path / "audit.files").write_text(json.dumps({**said, "files": []}))
    assert "the register was changed" in verify(tmp_path).problems[0]


def test_seals_in_a_folder_of_their_own_leave_nothing_but_lines_beside_the_log(tmp_path: Path) -> None:
    bundle, folder, seals = make_fake_bundle(tmp_path), tmp_path / "log", tmp_path / "seals"
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, audit=str(folder), audit_seals=str(seals))) as server:
        httpx.post(f"{server.url}/v1/ner", json={"input": "maria"})
    assert {file.suffix for file in folder.iterdir()} == {".jsonl"}
    flags = [sys.executable, "-m", "millis", "audit", "verify", str(folder)]
    assert subprocess.run([*flags, "--seals", str(seals)], capture_output=True, text=True).stdout == "1 lines in 1 files: whole\n"
    without = subprocess.run(flags, capture_output=True, text=True)
    assert (without.returncode, "--audit-seals" in without.stderr) == (2, True)
    shutil.rmtree(folder)
    folder.mkdir()
    gone = subprocess.run([*flags, "--seals", str(seals)], capture_output=True, text=True)
    assert (gone.returncode, "the whole file is missing" in gone.stdout) == (1, True)
    with pytest.raises(InvalidValue, match="--audit-seals is for"):
        ServeSettings(bundles=("a",), audit_seals="seals")


def test_a_file_of_the_size_allowed_is_followed_by_another(tmp_path: Path) -> None:
    bundle, folder = make_fake_bundle(tmp_path), tmp_path / "log"
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, audit=str(folder), audit_file_bytes=10_000)
    with Supervisor(settings) as server, httpx.Client(base_url=server.url) as client:
        for _ in range(2):
            for _ in range(90):  # some 13,000 bytes
                client.post("/v1/ner", json={"input": "maria"})
            time.sleep(0.15)  # until they are written
    sizes = [file.stat().st_size for file in folder.glob("*.jsonl")]
    assert len(sizes) >= 2
    assert max(sizes) < 25_000
    found = verify(folder)
    assert (found.files, found.lines, found.problems) == (len(sizes), 180, ())
    with pytest.raises(InvalidValue, match="10kB or more"):
        ServeSettings(bundles=("a",), audit="a", audit_file_bytes=100)


def test_a_line_that_a_killed_server_did_not_finish_is_no_tampering_and_the_next_start_closes_it(tmp_path: Path) -> None:
    bundle, folder = make_fake_bundle(tmp_path), tmp_path / "log"
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, audit=str(folder))
    with Supervisor(settings) as server:
        httpx.post(f"{server.url}/v1/ner", json={"input": "maria"})
    (file,) = folder.glob("*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])  # as a process leaves it that was killed in a write
    flags = [sys.executable, "-m", "millis", "audit", "verify", str(folder)]
    torn = subprocess.run(flags, capture_output=True, text=True)
    assert (torn.returncode, f"{file.name}:2: unfinished" in torn.stdout, "1 lines in 1 files: whole" in torn.stdout) == (0, True, True)
    with Supervisor(settings) as server:
        httpx.post(f"{server.url}/v1/ner", json={"input": "maria"})
    first, second = (json.loads(row) for row in file.read_text().splitlines())
    assert (first["what"], second["what"], second["outcome"]) == ("POST /v1/ner", "unfinished line", "removed")
    found = verify(folder)
    assert (found.files, found.lines, found.problems, found.unfinished) == (2, 3, (), ())
    cut = whole[:-20]  # half of a line that was counted: somebody removed it
    file.write_bytes(cut)
    assert "2 lines are missing at the end" in verify(folder).problems[0]
    AuditLog(folder)
    assert file.read_bytes() == cut, "what was changed is not sealed again"


def test_a_file_that_is_being_written_is_nobody_elses_to_finish(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.tell("POST /v1/ner", outcome="200")
    log.write()
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("ab") as stream:
        stream.write(b'{"n":2,')
    AuditLog(tmp_path)
    assert file.read_bytes().endswith(b'{"n":2,')


def test_a_folder_without_a_log_is_refused_and_one_that_cannot_be_written_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no audit log"):
        verify(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot be written"):
        AuditLog(tmp_path / "file")
    log = AuditLog(tmp_path / "log")
    log.tell("x", outcome="200")
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(RunFailed, match="cannot be written"):
        log.write()


def test_a_server_notes_who_did_what_and_never_the_text(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    secret, key = keys.create(name="", scopes=["ner"])
    bundle, folder = make_fake_bundle(tmp_path), tmp_path / "log"
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(keys.path), audit=str(folder))
    with Supervisor(settings) as server, httpx.Client(base_url=server.url) as client:
        headers = {"Authorization": f"Bearer {secret}"}
        client.post("/v1/ner", json={"input": "maria garcia"}, headers=headers)
        client.post("/v1/ner", json={"input": ""}, headers=headers)
        client.post("/v1/ner", json={"input": "maria garcia"})
        client.get("/metrics", headers=headers)
        client.get("/health/live")
    rows = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert [(row.get("who", ""), row["what"], row["outcome"]) for row in rows] == [
        (key.id, "POST /v1/ner", "200"), (key.id, "POST /v1/ner", "422"), ("", "POST /v1/ner", "401"), (key.id, "GET /metrics", "403"),
    ]  # fmt: skip
    assert rows[0]["on"] == "fake"
    written = "".join(file.read_text(errors="replace") for file in folder.iterdir())
    assert "maria" not in written
    assert secret not in written
    checked = subprocess.run([sys.executable, "-m", "millis", "audit", "verify", str(folder)], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "4 lines in 1 files: whole\n")
    change(next(folder.glob("*.jsonl")), lambda rows: rows[:-1])
    checked = subprocess.run([sys.executable, "-m", "millis", "audit", "verify", str(folder)], capture_output=True, text=True)
    assert checked.returncode == 1
    assert "NOT whole" in checked.stdout


def test_a_model_that_a_client_made_up_is_in_no_log(tmp_path: Path) -> None:
    bundle, folder = make_fake_bundle(tmp_path), tmp_path / "log"
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, audit=str(folder))) as server:
        for name in ("maria%20garcia", "fake"):  # without keys nobody may load or unload
            assert httpx.delete(f"{server.url}/v1/admin/models/{name}").status_code == 403
    rows = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert [(row["what"], row.get("on"), row["outcome"]) for row in rows] == [
        ("DELETE /v1/admin/models/{model}", None, "403"), ("DELETE /v1/admin/models/{model}", "fake", "403"),
    ]  # fmt: skip


def test_what_a_client_made_up_as_a_path_is_in_no_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    secret, _ = keys.create(name="", scopes=["ner", "admin"])
    bundle, folder = make_fake_bundle(tmp_path), tmp_path / "log"
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(keys.path), audit=str(folder), log_format="json")
    with Supervisor(settings) as server, watched(server), httpx.Client(base_url=server.url) as client:
        for path in (f"/v1/ner/{secret}", f"/{secret}", "/v2/models/maria%20garcia", "/v1/ner/玛丽亚"):
            client.get(path)
            client.get(path, headers={"X-API-Key": secret})
        client.get("/v2/models/fake", headers={"X-API-Key": secret})
        client.delete("/v1/admin/models/fake", headers={"X-API-Key": secret})
        ask_raw(int(server.url.rsplit(":", 1)[1]), f"GET /{secret} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())  # fmt: skip
    rows = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert [(row["what"], row.get("on"), row["outcome"]) for row in rows] == [
        *[("GET an unknown route", None, "401"), ("GET an unknown route", None, "404")] * 2,
        ("GET /v2/models/{model}", None, "401"), ("GET /v2/models/{model}", None, "404"),
        ("GET an unknown route", None, "401"), ("GET an unknown route", None, "404"),
        ("GET /v2/models/{model}", "fake", "200"), ("DELETE /v1/admin/models/{model}", "fake", "409"),
        ("GET an unknown route", None, "404"),
    ]  # fmt: skip
    written = "".join(file.read_text(errors="replace") for file in folder.iterdir()) + capfd.readouterr().err
    assert not [one for one in (secret[-20:], "maria", "玛丽亚") if one in written]


def test_what_could_not_be_written_is_written_later_and_the_log_is_whole(tmp_path: Path) -> None:
    log, limit = AuditLog(tmp_path / "log"), resource.getrlimit(resource.RLIMIT_FSIZE)
    log.tell("first", outcome="200")
    log.write()
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limit[1]))  # the disk is full in the middle of a line
    try:
        for i in range(5):
            log.tell(f"line {i}", outcome="200")
        with pytest.raises(RunFailed, match="cannot be written"):
            log.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert verify(tmp_path / "log").lines == 1
    log.tell("last", outcome="200")
    log.write()
    found = verify(tmp_path / "log")
    assert (found.lines, found.problems) == (7, ())


def test_a_log_that_cannot_be_written_for_long_says_how_much_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millis.security.audit._MOST_PENDING", 3)
    log = AuditLog(tmp_path / "log")
    for i in range(10):
        log.tell(f"line {i}", outcome="200")
    log.write()
    log.tell("after", outcome="200")
    log.write()
    rows = [json.loads(row) for row in next((tmp_path / "log").glob("*.jsonl")).read_text().splitlines()]
    assert [(row["what"], row.get("times", 1)) for row in rows] == [("line 0", 1), ("line 1", 1), ("line 2", 1), ("lost", 7), ("after", 1)]
    assert verify(tmp_path / "log").problems == ()
