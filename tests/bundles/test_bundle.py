"""A bundle is whole, or it is refused by the name of the file that is wrong."""

import errno
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

import millis
from making import forge, forge_file, make_fake_bundle, small_disk
from millis.backends.fake import write_fake
from millis.bundles import Bundle, Certificate, load, open_bundle, save_bundle
from millis.bundles.manifest import ServingShape
from millis.bundles.saving import certify
from millis.errors import InvalidBundle, InvalidValue, RunFailed


def test_a_saved_bundle_opens_and_answers(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    assert open_bundle(bundle.path).manifest == bundle.manifest
    model = millis.load(bundle.path)
    alone = model("maria garcia of northwind wrote")
    assert model(["x", "maria garcia of northwind wrote"])[1] == alone
    assert set(alone) == {"entities"}


@pytest.mark.parametrize("name", ["tokenizer.json", "rungs/fake/fake.json"])
@pytest.mark.parametrize("harm", ["truncate", "alter", "remove"])
def test_a_file_that_was_harmed_is_refused_by_name(tmp_path: Path, name: str, harm: str) -> None:
    file = make_fake_bundle(tmp_path).path / name
    content = file.read_bytes()
    if harm == "truncate":
        file.write_bytes(content[:-3])
    elif harm == "alter":
        file.write_bytes(content[:-3] + b"xyz")
    else:
        file.unlink()
    with pytest.raises(InvalidBundle, match=name):
        open_bundle(tmp_path / "fake.millis")


@pytest.mark.parametrize("harm", ["truncate", "alter", "unknown key", "other format"])
def test_a_manifest_that_was_harmed_is_refused(tmp_path: Path, harm: str) -> None:
    file = make_fake_bundle(tmp_path).path / "manifest.json"
    document = json.loads(file.read_text())
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:100])
    elif harm == "alter":
        file.write_text(json.dumps(document | {"rung": "other"}))
    elif harm == "unknown key":
        file.write_text(json.dumps(document | {"speed": "high"}))
    else:
        file.write_text(json.dumps(document | {"format": 99}))
    with pytest.raises(InvalidBundle, match=r"manifest|format 99"):
        open_bundle(tmp_path / "fake.millis")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rung": "absent"}, "absent"),
        ({"rungs": ()}, "none of them|one of them"),
        ({"name": "../x"}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"serving": ServingShape(workers=1_000_000)}, "workers"),
        ({"serving": ServingShape(threads=-1)}, "threads"),
        ({"contract": {}}, "contract"),
        ({"contract": {"percentile": 99.0, "bound_ms": "fast"}}, "contract"),
    ],
)
def test_a_sealed_manifest_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    bundle = make_fake_bundle(tmp_path)
    forge(bundle, **changes)
    with pytest.raises(InvalidBundle, match=says):
        open_bundle(bundle.path)


@pytest.mark.parametrize("folder", ["../..", "/etc", "rungs/../../.."])
def test_a_rung_that_stands_outside_the_bundle_is_refused(tmp_path: Path, folder: str) -> None:
    bundle = make_fake_bundle(tmp_path)
    forge(bundle, rungs=(msgspec.structs.replace(bundle.rung(), folder=folder),))
    with pytest.raises(InvalidBundle, match="inside"):
        open_bundle(bundle.path)


def test_a_manifest_from_before_a_key_was_known_is_whole(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    document = json.loads((bundle.path / "manifest.json").read_text())
    del document["notes"]
    body = json.dumps({**document, "seal": ""}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document["seal"] = hashlib.sha256(body.encode()).hexdigest()
    (bundle.path / "manifest.json").write_text(json.dumps(document))
    assert open_bundle(bundle.path).manifest.notes == ()


def test_task_settings_of_another_task_are_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    forge(bundle, task_settings={"speed": "high"})
    with pytest.raises(InvalidBundle, match="speed"):
        millis.load(bundle.path)


def test_a_network_of_other_labels_is_refused_before_it_serves(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    write_fake(bundle.path / "rungs" / "fake", labels=len(bundle.manifest.labels) - 2)
    forge_file(bundle, "rungs/fake/fake.json")
    with pytest.raises(InvalidBundle, match="to other labels"):
        millis.load(bundle.path)


def test_buckets_shorter_than_the_longest_window_are_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    forge(bundle, rungs=(msgspec.structs.replace(bundle.rung(), buckets=(8, 16)),))
    with pytest.raises(InvalidBundle, match="32 tokens"):
        millis.load(bundle.path)


def test_another_format_is_named_whatever_keys_it_has(tmp_path: Path) -> None:
    file = make_fake_bundle(tmp_path).path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2, "speed": "high"}))
    with pytest.raises(InvalidBundle, match="format 2"):
        open_bundle(tmp_path / "fake.millis")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"format": "1"}', b'{"format": 1, "labels": {"a": 1}}'])
def test_a_manifest_of_wrong_types_is_refused(tmp_path: Path, content: bytes) -> None:
    bundle = make_fake_bundle(tmp_path)
    (bundle.path / "manifest.json").write_bytes(content)
    with pytest.raises(InvalidBundle, match=r"manifest\.json"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("place", ["rungs", "etc"])
def test_a_link_in_a_bundle_is_refused_wherever_it_leads(tmp_path: Path, place: str) -> None:
    bundle = make_fake_bundle(tmp_path)
    if (bundle.path / place).exists():
        (bundle.path / place).rename(tmp_path / "outside")
    else:
        (tmp_path / "outside").mkdir()
    (bundle.path / place).symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidBundle, match=f"{place} is a link"):
        open_bundle(bundle.path)


def test_what_cannot_be_read_is_refused_in_the_systems_words(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    (bundle.path / "manifest.json").unlink()
    (bundle.path / "manifest.json").mkdir()
    with pytest.raises(InvalidBundle, match="cannot be read"):
        open_bundle(bundle.path)
    for path, says in (("x" * 300, "cannot be read"), ("\udcff.millis", "UTF-8"), ("a\0b", "does not exist"), ("", "manifest")):
        with pytest.raises(InvalidBundle, match=says):
            open_bundle(path)


def test_a_certificate_of_other_files_or_of_no_shape_is_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    certificate = Certificate(
        contract=bundle.manifest.contract, verdict={"status": "kept", "clauses": []}, measurement={}, machine={},
        rung="fake", serving=ServingShape(), command="", created="", versions={}, subject=bundle.subject(),
    )  # fmt: skip
    for changes in ({"subject": {"tokenizer.json": "0" * 64}}, {"verdict": {"status": "splendid"}}):
        certify(bundle, certificates=[msgspec.structs.replace(certificate, **changes)])
        with pytest.raises(InvalidBundle, match=r"certificate\.json"):
            open_bundle(bundle.path)


def test_each_rung_of_a_ladder_keeps_the_certificate_of_its_own_files(tmp_path: Path) -> None:
    draft = make_fake_bundle(tmp_path)
    fast = draft.rung()
    slow = msgspec.structs.replace(fast, name="slow", folder="rungs/slow")
    parts = {"tokenizer.json": draft.path / "tokenizer.json", "rungs/slow": draft.path / "rungs/fake"}
    other = save_bundle(
        tmp_path / "other.millis", manifest=msgspec.structs.replace(draft.manifest, rungs=(slow,), rung="slow"), parts=parts
    )
    certificates = [
        Certificate(
            contract=one.manifest.contract, verdict={"status": "kept", "clauses": []}, measurement={}, machine={},
            rung=one.manifest.rung, serving=ServingShape(), command="", created="", versions={}, subject=one.subject(),
        )
        for one in (draft, other)
    ]  # fmt: skip
    ladder = save_bundle(
        tmp_path / "ladder.millis", manifest=msgspec.structs.replace(draft.manifest, rungs=(fast, slow)),
        parts={**parts, "rungs/fake": draft.path / "rungs/fake"},
    )  # fmt: skip
    certify(ladder, certificates=certificates)
    opened = open_bundle(ladder.path)
    assert opened.certificate == certificates[0]
    assert opened.certificate_of("slow") == certificates[1]
    assert load(opened, rung="slow")("maria")["entities"] == load(opened)("maria")["entities"]
    certify(ladder, certificates=[msgspec.structs.replace(certificates[1], subject=draft.subject())])
    with pytest.raises(InvalidBundle, match=r"certificates/slow\.json speaks of other files"):
        open_bundle(ladder.path)


def test_rungs_that_share_a_table_of_embeddings_hold_it_once(tmp_path: Path) -> None:
    draft = make_fake_bundle(tmp_path)
    tables = {"a": "tables/a.npy", "b": "tables/a.npy", "c": "tables/c.npy"}
    rungs = tuple(
        msgspec.structs.replace(draft.rung(), name=name, folder=f"rungs/{name}", table=table)
        for name, table in tables.items()
    )
    bundle = save_bundle(
        tmp_path / "ladder.millis", manifest=msgspec.structs.replace(draft.manifest, rungs=rungs, rung="a"),
        parts={"tokenizer.json": draft.path / "tokenizer.json", "tables/a.npy": b"12345", "tables/c.npy": b"1",
               **{one.folder: draft.path / "rungs/fake" for one in rungs}},
    )  # fmt: skip
    files = draft.count_bytes(draft.rung())
    assert [bundle.count_bytes(one) - files for one in rungs] == [5, 5, 1]
    for one in rungs:
        mine = {name for name in bundle.subject(one.name) if name.startswith(("tables/", "rungs/"))}
        assert mine == {one.table, f"{one.folder}/fake.json"}
    forge(bundle, rungs=(msgspec.structs.replace(rungs[0], table="../../secret.npy"),))
    with pytest.raises(InvalidBundle, match=r"needs \.\./\.\./secret\.npy, which is not in"):
        open_bundle(bundle.path)


def test_a_file_that_the_manifest_does_not_know_is_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    (bundle.path / "payload.pkl").write_bytes(b"?")
    with pytest.raises(InvalidBundle, match=r"payload\.pkl"):
        open_bundle(bundle.path)


def test_names_that_lead_out_of_the_bundle_are_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    for name in ("../evil", "/evil", "rungs/../../evil"):
        with pytest.raises(InvalidBundle, match="inside"):
            save_bundle(tmp_path / "other.millis", manifest=bundle.manifest, parts={name: b"x"})
    assert sorted(p.name for p in tmp_path.glob("*evil*")) == []


def test_what_is_no_bundle_is_refused_and_left_alone(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear")
    with pytest.raises(InvalidValue, match="not a bundle"):
        save_bundle(tmp_path / "notes", manifest=bundle.manifest, parts={"a": b"x"})
    for wrong in (tmp_path / "notes", tmp_path / "nowhere", tmp_path / "notes" / "diary.txt"):
        with pytest.raises(InvalidBundle):
            open_bundle(wrong)
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear"


def test_a_new_certificate_replaces_the_old_and_nothing_else(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    before = bundle.subject()
    certificate = Certificate(
        contract=bundle.manifest.contract, verdict={"status": "kept", "clauses": []}, measurement={}, machine={},
        rung="fake", serving=ServingShape(), command="", created="", versions={}, subject=before,
    )  # fmt: skip
    proven = open_bundle(certify(bundle, certificates=[certificate], reports={"en": b"<html>", "zh": b"<html>"}).path)
    assert proven.certificate == certificate
    assert {"report.html", "report.zh.html"} <= proven.manifest.files.keys()
    assert proven.subject() == before
    assert sorted(path.name for path in tmp_path.glob(".*")) == [], "no temporary folder is left"


def test_what_is_added_at_the_end_stands_with_the_rest_or_nothing_does(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    parts: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}

    def add(draft: Bundle) -> dict[str, bytes]:
        assert draft.subject() == bundle.subject()
        return {"report.html": b"<html>"}

    added = save_bundle(tmp_path / "new.millis", manifest=bundle.manifest, parts=parts, finish=add)
    assert open_bundle(added.path).manifest.files.keys() - bundle.manifest.files.keys() == {"report.html"}

    def fail(draft: Bundle) -> dict[str, bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFailed, match="unchanged"):
        save_bundle(added.path, manifest=bundle.manifest, parts=parts, finish=fail)
    assert open_bundle(added.path).manifest == added.manifest


def test_a_writer_killed_at_any_moment_leaves_the_old_bundle_whole(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    program = (
        "import sys; from pathlib import Path; from millis.bundles import open_bundle, save_bundle\n"
        "bundle = open_bundle(sys.argv[1])\n"
        "parts = {name: bundle.path / name for name in bundle.manifest.files}\n"
        "print('go', flush=True)\n"
        "while True: save_bundle(bundle.path, manifest=bundle.manifest, parts=parts)\n"
    )
    for wait_s in (0.0, 0.011, 0.037, 0.09):
        writer = subprocess.Popen([sys.executable, "-c", program, str(bundle.path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(wait_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert open_bundle(bundle.path).manifest == bundle.manifest


def test_what_a_killed_writer_left_goes_with_the_next_save_and_a_living_ones_stays(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    parts: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}
    program = (
        "import sys, time; from millis.bundles import open_bundle, save_bundle\n"
        "bundle = open_bundle(sys.argv[1])\n"
        "parts = {name: bundle.path / name for name in bundle.manifest.files}\n"
        "def stall(draft): print('in', flush=True); time.sleep(60)\n"
        "save_bundle(bundle.path, manifest=bundle.manifest, parts=parts, finish=stall)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(bundle.path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    (tmp_path / f".{bundle.path.name}.notes").mkdir()
    save_bundle(tmp_path / "other.millis", manifest=bundle.manifest, parts=parts)
    save_bundle(bundle.path, manifest=bundle.manifest, parts=parts)
    assert len(list(tmp_path.glob(".*/fake.millis"))) == 1, "its writer lives"
    writer.kill()
    writer.wait()
    save_bundle(bundle.path, manifest=bundle.manifest, parts=parts)
    assert [one.name for one in tmp_path.glob(".*")] == [".fake.millis.notes"]
    assert open_bundle(bundle.path).manifest == bundle.manifest


def test_a_full_disk_leaves_the_old_bundle_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path, n_kilobytes=512) as disk:
        bundle = make_fake_bundle(disk)
        parts: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}
        with pytest.raises(RunFailed, match="unchanged"):
            save_bundle(bundle.path, manifest=bundle.manifest, parts=parts | {"big": b"x" * 2_000_000})
        assert open_bundle(bundle.path).manifest == bundle.manifest


def test_a_disk_that_fills_up_in_a_folder_of_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_fake_bundle(tmp_path)

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fill)
    with pytest.raises(RunFailed, match="No space left on device"):
        save_bundle(tmp_path / "new.millis", manifest=bundle.manifest, parts={"rungs/fake": bundle.path / "rungs" / "fake"})


def test_an_unknown_rung_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="choose one of fake"):
        millis.load(make_fake_bundle(tmp_path).path, rung="gpu")


def test_padding_to_a_bucket_changes_no_answer(tmp_path: Path) -> None:
    padded = millis.load(make_fake_bundle(tmp_path, name="padded", buckets=(8, 16, 32)).path)
    plain = millis.load(make_fake_bundle(tmp_path, name="plain").path)
    for text in ("maria", "maria garcia of northwind wrote from lisbon", " ".join(["eu rejects german call"] * 20)):
        assert padded(text) == plain(text)
