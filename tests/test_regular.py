"""Pipes and devices where a file is needed: a sentence, since one would be waited for and the other never ends."""

import os
import threading
from pathlib import Path

import pytest

from making import make_certificate
from millis import regular
from millis.bundles import open_bundle
from millis.data.plain import read_plain, read_text
from millis.errors import InvalidBundle, InvalidData, InvalidValue
from millis.retrieving.storing import read_manifest
from millis.security.certificates import make_context
from millis.security.keys import KeyFile
from millis.serving.remembering import StateFile


@pytest.fixture(params=["pipe", "/dev/zero"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Something that is no regular file."""
    file = tmp_path / "strange/manifest.json"
    file.parent.mkdir()
    if request.param == "pipe":
        os.mkfifo(file, 0o600)
    else:
        file.symlink_to(request.param)
    return file


def test_what_is_no_regular_file_is_refused_wherever_it_is_named(tmp_path: Path, place: Path) -> None:
    certificate, key = make_certificate(tmp_path / "tls", name="one")
    for read in (
        KeyFile(place).read, StateFile(place, named=[], folders=[]).recall,
        lambda: make_context(str(place), str(key)), lambda: make_context(str(certificate), str(place)),
        lambda: open_bundle(place.parent), lambda: read_manifest(place.rename(place.with_name("index.json")).parent),
    ):  # fmt: skip
        with pytest.raises((InvalidValue, InvalidBundle), match="a pipe, a device or a folder"):
            read()


def test_texts_may_come_through_a_pipe_for_as_long_as_somebody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular, "WRITER_WITHIN_S", 0.05)
    file = tmp_path / "texts"
    os.mkfifo(file)
    with pytest.raises(InvalidData, match=r"texts: cannot be read \(a pipe through which nothing came\)"):
        read_plain(file)
    writer = os.open(file, os.O_RDWR)
    told = threading.Timer(0.2, lambda: (os.write(writer, b"one\ntwo\n"), os.close(writer)))  # longer than for one that is absent
    told.start()
    assert read_plain(file) == ["one", "two"]
    told.join()


@pytest.mark.parametrize("read", [read_plain, lambda path: read_text(str(path))])
def test_a_device_is_no_file_of_texts(read: object) -> None:
    with pytest.raises(InvalidData, match="/dev/zero"):
        read(Path("/dev/zero"))  # type: ignore[operator]
