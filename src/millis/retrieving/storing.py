"""An index on disk: segments that never change, and one manifest that says which of them count.

    faq.index/index.json            model, format, segments, hashes, a seal
    faq.index/segments/NAME/        passages.jsonl starts.npy vectors.npy words.npz
    faq.index/deleted/NAME.npy      which passages of a segment are gone

Whatever changes an index writes new files beside the old ones, then puts a new manifest in the place of the old: one
rename, before which nothing is changed and after which everything is. So a process that is killed leaves the index as
it was before, or as it is after. What no manifest names is swept away by the next writer.
Border: files and bytes; what is in them is others' matter. One writer at a time; readers need no lock.
Limits: POSIX only (flock).
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

from millis.bundles import Bundle
from millis.bundles.bundle import check_file, hash_file
from millis.bundles.manifest import FileEntry
from millis.errors import InvalidBundle, RunFailed, reason_of
from millis.locks import held
from millis.regular import read_regular

FORMAT = 1
MANIFEST = "index.json"
_SEGMENTS, _DELETED, _LOCK = "segments", "deleted", ".lock"


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Passages that were written together.

    Args:
        n: passages, deleted ones too.
        deleted: name of the file that says which are gone; None where none is.
        n_deleted: how many are.
        files: by path in the index, that of deleted too.
    """

    name: str
    n: int
    n_deleted: int = 0
    deleted: str | None = None
    files: dict[str, FileEntry] = {}


class IndexManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """index.json.

    Args:
        model: name of the bundle whose vectors these are.
        model_seal: what `identify_model` says of it.
        rung: that made the vectors.
        width: of vectors, D.
        text_key: key of the searched text in the rows that were read.
        seal: SHA-256 of this manifest without its seal.
    """

    format: int
    model: str
    model_seal: str
    rung: str
    width: int
    text_key: str
    segments: tuple[Segment, ...] = ()
    seal: str = ""


class _Versioned(msgspec.Struct):
    """The one key that every format has."""

    format: int


def identify_model(bundle: Bundle) -> str:
    """Give a hash of all that decides a bundle's vectors; a new certificate or name leaves it as it is."""
    manifest = bundle.manifest
    decides = [bundle.subject(), manifest.task, manifest.task_settings]
    return hashlib.sha256(msgspec.json.encode(decides, order="sorted")).hexdigest()


def read_manifest(folder: Path) -> IndexManifest:
    """Read an index's manifest.

    Raises:
        InvalidBundle: no index stands there, or one that was cut short, altered, or is of another version.
    """
    try:
        content = read_regular(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidBundle(
            f"{folder} is no index, it has no {MANIFEST}: `millis index build FILE --model NAME.millis -o"
            f" {folder.name}` makes one."
        ) from None
    except OSError as error:
        raise InvalidBundle(f"{folder} cannot be read ({error.strerror}): give an index that you may read.") from error
    try:
        version = msgspec.json.decode(content, type=_Versioned).format
        if version != FORMAT:
            raise InvalidBundle(
                f"{folder.name} is an index of format {version}, and this version of millis reads {FORMAT}: build it"
                " anew, or use the version that made it."
            )
        manifest = msgspec.json.decode(content, type=IndexManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBundle(
            f"{folder.name}: {MANIFEST} cannot be read: it was cut short, altered, or is of another version. Build the"
            " index anew."
        ) from error
    if _seal(manifest) != manifest.seal:
        raise InvalidBundle(
            f"{folder.name}: {MANIFEST} was altered (its seal does not fit). Build the index anew."
        )
    return manifest


def check_files(folder: Path, segment: Segment) -> None:
    """Compare a segment's files with what the manifest says of them.

    Raises:
        InvalidBundle: names the file that is missing, cut short or altered.
    """
    for name, entry in segment.files.items():
        check_file(folder, name, entry, remedy="Copy the index again or build it anew.")


def is_free(folder: Path) -> bool:
    """Say whether an index may be made there: nothing stands there, or what a writer left that was killed."""
    if not folder.is_dir():
        return not folder.exists()
    names = {file.name for file in folder.iterdir()}
    left = {_SEGMENTS, _DELETED, f"{MANIFEST}.new"} if _LOCK in names else set()
    return all(name.startswith(".") for name in names - left)


def check_model(manifest: IndexManifest, bundle: Bundle, *, name: str) -> None:
    """Refuse a bundle whose vectors are not those of an index.

    Raises:
        InvalidBundle: it is another model.
    """
    if manifest.model_seal != identify_model(bundle):
        raise InvalidBundle(
            f"index {name} was built by model {manifest.model}, whose vectors are others than those of"
            f" {bundle.name} as it is now: use that model, or build the index anew with this one."
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the one who writes an index while the block runs, and sweep up what a killed writer left.

    Raises:
        InvalidValue: another process writes.
        RunFailed: the disk is full or not writable; the index is as it was.
    """
    try:
        with held(
            folder / _LOCK, busy=f"another process writes {folder.name} now: wait for its end, then try again."
        ):
            _sweep(folder)
            yield
            _sweep(folder)
    except OSError as error:
        raise RunFailed(
            f"cannot write {folder}: {reason_of(error)}. The index is as it was; free some space and try again."
        ) from error


def write_segment(folder: Path, fill: Callable[[Path], None], *, n: int) -> Segment:
    """Write a segment's files through `fill`, which gets a folder, and make sure that they are on the disk."""
    name = uuid4().hex[:16]
    place = folder / _SEGMENTS / name
    place.mkdir(parents=True)
    fill(place)
    files = {}
    for file in sorted(place.iterdir()):
        _sync(file)
        files[f"{_SEGMENTS}/{name}/{file.name}"] = FileEntry(sha256=hash_file(file), n_bytes=file.stat().st_size)
    _sync(place)
    _sync(place.parent)
    return Segment(name=name, n=n, files=files)


def write_deleted(folder: Path, segment: Segment, content: bytes, *, n: int) -> Segment:
    """Give a segment another list of the passages that are gone."""
    file = folder / _DELETED / f"{segment.name}-{uuid4().hex[:8]}.npy"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    _sync(file)
    _sync(file.parent)
    name = f"{_DELETED}/{file.name}"
    files = {kept: entry for kept, entry in segment.files.items() if kept != segment.deleted}
    files[name] = FileEntry(sha256=hash_file(file), n_bytes=len(content))
    return msgspec.structs.replace(segment, deleted=name, n_deleted=n, files=files)


def write_manifest(folder: Path, manifest: IndexManifest) -> IndexManifest:
    """Put a manifest in the place of the one before: from here on the index is what it says."""
    sealed = msgspec.structs.replace(manifest, seal=_seal(manifest))
    draft = folder / f"{MANIFEST}.new"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=1))
    _sync(draft)
    os.replace(draft, folder / MANIFEST)
    _sync(folder)
    return sealed


def _seal(manifest: IndexManifest) -> str:
    plain = msgspec.structs.replace(manifest, seal="")
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what the manifest does not name; who reads such a file still, goes on reading it."""
    named: set[str] = set()
    if (folder / MANIFEST).is_file():
        named = {file for segment in read_manifest(folder).segments for file in segment.files}
    segments = {file.split("/")[1] for file in named if file.startswith(f"{_SEGMENTS}/")}
    for place in (folder / _SEGMENTS).glob("*"):
        if place.name not in segments:
            shutil.rmtree(place, ignore_errors=True)
    for file in (folder / _DELETED).glob("*"):
        if f"{_DELETED}/{file.name}" not in named:
            file.unlink(missing_ok=True)
