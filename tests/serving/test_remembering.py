"""What was changed over HTTP and what stands after a restart, through the front door: real processes, real files."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from running import MODELS, Site

from making import forge, make_fake_bundle
from millis.bundles import Bundle, open_bundle
from millis.errors import InvalidBundle, InvalidValue
from millis.serving.remembering import StateFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.serving.versions import make_version

pytestmark = pytest.mark.slow


class Remembering(Site):
    """A site with a state file."""

    def __init__(self, folder: Path, *bundles: Bundle) -> None:
        self.file = folder / "state/served.json"
        super().__init__(folder, *bundles, state=str(self.file))

    def name_bundles(self, *bundles: Path, **settings: Any) -> None:
        """Name others on the command line from the next start on."""
        self.settings = msgspec.structs.replace(self.settings, bundles=tuple(map(str, bundles)), **settings)

    def state_file(self) -> StateFile:
        return StateFile(self.file, named=[open_bundle(path) for path in self.settings.bundles], folders=self.settings.models_from)

    def remember(self, *loaded: str, unloaded: str = "") -> None:
        """Write what a server writes that loaded and unloaded these."""
        file = self.state_file()
        placement = file.recall().placement
        for path in loaded:
            version = make_version(open_bundle(self.folder / path), number=max(placement.versions()) + 1)
            placement = placement.load(version, canary_percent=None, shadow_percent=None)
        file.keep(placement.unload(unloaded) if unloaded else placement)

    def served(self) -> dict[str, str]:
        """Give the folder that each model is served from, in their order."""
        return {one["name"]: Path(one["serving"]["path"]).parent.name for one in self.http.get(MODELS).json()["data"]}


@contextlib.contextmanager
def running_alone(site: Site) -> Iterator[str]:
    """Run `millis serve` as a process of its own, and kill it; give its address."""
    named = site.settings
    command = [
        sys.executable, "-m", "millis", "serve", *named.bundles, "--port", "0", "--json", "--keys", str(named.keys),
        "--models-from", *named.models_from, "--state", str(named.state),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield json.loads(process.stdout.readline())["url"]  # type: ignore[union-attr]
        finally:
            process.send_signal(signal.SIGKILL)


def test_what_was_loaded_tried_promoted_and_unloaded_is_so_after_a_kill(tmp_path: Path) -> None:
    site = Remembering(tmp_path, make_fake_bundle(tmp_path), make_fake_bundle(tmp_path / "unwanted", name="unwanted"))
    site.make("other", name="other")
    site.make("second", name="fake")
    with running_alone(site) as url, httpx.Client(base_url=url, headers={"X-API-Key": site.admin}, timeout=60) as http:
        assert http.post(MODELS, json={"path": "other/other.millis", "name": "places"}).status_code == 201
        assert http.post(MODELS, json={"path": "second/fake.millis", "canary_percent": 25}).status_code == 201
        assert http.delete(f"{MODELS}/unwanted").status_code == 200
    with site.running():
        assert site.served() == {"fake": tmp_path.name, "places": "other"}
        assert site.ask(model="places").json()["model"] == "places"
        assert site.ask(model="unwanted").status_code == 404
        trial = site.state()["trial"]["number"]
        assert Counter(site.ask().headers["x-millis-version"] for _ in range(8)) == {"1": 6, str(trial): 2}
        assert site.http.post(f"{MODELS}/fake/promote").status_code == 200
        assert site.http.delete(f"{MODELS}/places").status_code == 200
    (placed,) = site.state_file().recall().placement.models
    assert placed.former is not None
    assert (placed.serving.number, placed.former.number) == (trial, 1)


def test_a_bundle_that_is_gone_or_altered_is_told_and_the_rest_serves_until_it_is_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site = Remembering(tmp_path, make_fake_bundle(tmp_path))
    gone, altered = site.make("gone", name="gone"), site.make("altered", name="altered")
    site.make("newer", name="fake")
    site.remember("gone/gone.millis", "altered/altered.millis", "newer/fake.millis")
    gone.rename(tmp_path / "aside")
    shutil.copytree(altered, tmp_path / "kept")
    file = altered / "rungs/fake/fake.json"
    file.write_bytes(file.read_bytes().replace(b"0.0", b"9.9"))
    shutil.rmtree(site.folder / "newer")
    with site.running():
        told = capfd.readouterr().err
        assert "gone was served and is not" in told
        assert "altered was served and is not: altered.millis: rungs/fake/fake.json was altered" in told
        assert "fake goes on without its trial version" in told
        assert site.served() == {"fake": tmp_path.name}
        assert site.state()["state"] == "serving"
        site.make("more", name="more")
        assert site.load("more/more.millis").status_code == 201  # the file is written without forgetting them
        assert site.state("more")["serving"]["number"] > 4
    (tmp_path / "aside").rename(gone)
    shutil.rmtree(altered)
    shutil.copytree(tmp_path / "kept", altered)
    recalled = site.state_file().recall()
    assert [one.name for one in recalled.placement.models] == ["fake", "more", "gone", "altered"]
    assert recalled.notes == ()


def test_what_changed_on_the_command_line_since_wins_over_what_is_remembered(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (make_fake_bundle(tmp_path / name, name=name) for name in "abc")
    site = Remembering(tmp_path, a, b, c)
    site.make("loaded", name="loaded")
    site.remember("loaded/loaded.millis", unloaded="c")
    forge(a, notes=("another",))
    mine = make_fake_bundle(tmp_path / "mine", name="loaded")
    site.name_bundles(a.path, c.path, mine.path)
    with site.running():
        assert site.served() == {"a": "a", "loaded": "mine"}  # b is named no longer, c was unloaded by hand
        assert {one["name"]: one["serving"]["number"] for one in site.http.get(MODELS).json()["data"]}["a"] > 4
        told = capfd.readouterr().err
        assert "loaded: the command line names" in told
        assert "b is served no longer" in told
    site.remember("loaded/loaded.millis")
    site.name_bundles(a.path, c.path, mine.path, models_from=())
    recalled = site.state_file().recall()
    assert recalled.placement.find("loaded").trial is None
    assert "not loaded from a folder that --models-from names" in recalled.notes[0]


def test_a_change_that_cannot_be_written_is_made_and_told(tmp_path: Path) -> None:
    site = Remembering(tmp_path, make_fake_bundle(tmp_path))
    site.make("other", name="other")
    with site.running():
        before = site.file.read_bytes()
        site.file.with_name("served.json.part").mkdir()
        assert site.load("other/other.millis").status_code == 201
        assert "cannot be written" in site.state("other")["history"][-1]
        assert site.ask(model="other").status_code == 200
        assert site.file.read_bytes() == before


def test_where_nothing_is_left_the_start_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    site = Remembering(tmp_path, make_fake_bundle(tmp_path))
    other = site.make("other", name="other")
    site.remember("other/other.millis", unloaded="fake")
    before = site.file.read_bytes()
    shutil.rmtree(other)
    with pytest.raises(InvalidBundle, match=r"nothing is left to serve.*other was served and is not"):
        Supervisor(site.settings)
    assert site.file.read_bytes() == before


VERSION = {"number": 1, "name": "a", "path": "/a", "seal": "", "task": "ner", "contract": {}}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 2, "named": [], "models": []}', b'{"format": 1, "named": []}',
        json.dumps({"format": 1, "named": [], "models": [{"name": "a", "serving": VERSION, "canary_percent": 101}]}).encode(),
        json.dumps({"format": 1, "named": [], "models": [{"name": "a", "serving": VERSION}] * 2}).encode(),
    ],
)  # fmt: skip
def test_a_file_that_the_server_did_not_write_is_refused(tmp_path: Path, content: bytes) -> None:
    site = Remembering(tmp_path, make_fake_bundle(tmp_path))
    site.file.parent.mkdir()
    site.file.write_bytes(content)
    with pytest.raises(InvalidValue, match=r"served\.json"):
        Supervisor(site.settings)
    assert site.file.read_bytes() == content


def test_what_nobody_can_change_needs_no_state(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"--state remembers.*--keys"):
        ServeSettings(bundles=("a.millis",), state=os.fspath(tmp_path / "state.json"))
