"""A bundle is written whole or not at all.

Border: parts and a manifest in, a bundle out. It is written to a temporary folder beside its place and exchanged with
what stands there in one step, so a crash leaves the old bundle whole; the folder of a killed writer goes with the next
save.
Limits: exchanging two folders in one step needs Linux; elsewhere there is an instant with the old one set aside.
"""

import ctypes
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import msgspec

from millis.bundles.bundle import MANIFEST, REPORTS, Bundle, certificate_file, compute_seal, hash_file, stay_inside
from millis.bundles.manifest import Certificate, FileEntry, Manifest
from millis.errors import InvalidValue, RunFailed, reason_of
from millis.locks import held

_DRAFT = ".draft"
_LOCK = "lock"


def save_bundle(
    path: str | Path,
    *,
    manifest: Manifest,
    parts: Mapping[str, Path | bytes],
    finish: Callable[[Bundle], Mapping[str, bytes]] | None = None,
) -> Bundle:
    """Write a bundle, or leave what stands at path as it is.

    Args:
        path: where the bundle shall stand; an old bundle there is replaced, anything else is refused.
        manifest: all but files and seal, which are computed.
        parts: content by name inside the bundle: bytes, or a file or folder to copy.
        finish: gives further parts, which speak of the others; it gets the bundle before it stands in its place.
    Raises:
        InvalidValue: something that is not a bundle stands at path.
        RunFailed: the disk is full or not writable; nothing was changed.
    """
    place = Path(path).absolute()
    if place.exists() and not (place / MANIFEST).is_file():
        raise InvalidValue(f"{path} exists and is not a bundle: choose another name or move it away.")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place)
        with (
            tempfile.TemporaryDirectory(
                prefix=f".{place.name}.", suffix=_DRAFT, dir=place.parent, ignore_cleanup_errors=True
            ) as scratch,
            held(Path(scratch) / _LOCK, busy=f"another process begins to write {path} now: try again."),
        ):
            draft = Path(scratch) / place.name
            draft.mkdir()
            for name, content in parts.items():
                _write_part(draft / stay_inside(name), content)
            sealed = _seal(manifest, draft)
            if finish is not None:
                for name, content in finish(Bundle(draft, sealed)).items():
                    _write_part(draft / stay_inside(name), content)
                sealed = _seal(manifest, draft)
            _write_part(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(sealed), indent=1))
            _exchange(draft, place)
    except OSError as error:
        raise RunFailed(
            f"cannot write {path}: {error.strerror}. What stood there is unchanged; free some space and go on, or"
            " choose another place."
        ) from error
    return Bundle(place, sealed)


def check_above(place: Path) -> None:
    """Refuse a place where nothing can stand.

    Raises:
        InvalidValue: there is a file where a folder has to be, or the system takes no such name.
    """
    try:
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise InvalidValue(f"{str(place)[:200]} cannot stand there ({reason}): choose another -o.") from error
    above = next(parent for parent in place.absolute().parents if os.path.exists(parent))
    if not os.path.isdir(above):
        raise InvalidValue(f"{place} cannot stand below {above}, which is a file: choose another -o.")


def certify(
    bundle: Bundle, *, certificates: Sequence[Certificate], reports: Mapping[str, bytes] = MappingProxyType({})
) -> Bundle:  # fmt: skip
    """Write the bundle again with new certificates of some of its rungs, everything else unchanged.

    Args:
        reports: pages by language; those that are there stay where none is given.
    """
    parts: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}
    parts |= proof_parts(certificates, serving=bundle.manifest.rung, reports=reports)
    return save_bundle(bundle.path, manifest=bundle.manifest, parts=parts)


def proof_parts(
    certificates: Sequence[Certificate], *, serving: str, reports: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Give certificates, and reports by language, as parts of a bundle of which the rung `serving` serves."""
    files = {certificate_file(one.rung, serving=serving): msgspec.json.encode(one) for one in certificates}
    pages = {REPORTS[language]: page for language, page in reports.items()}
    return {file: msgspec.json.format(content, indent=1) for file, content in files.items()} | pages


def _sweep(place: Path) -> None:
    """Take away what writers that were killed left beside a place."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.*{_DRAFT}"):
        with suppress(InvalidValue), held(left / _LOCK, busy="its writer lives"):
            shutil.rmtree(left, ignore_errors=True)


def _seal(manifest: Manifest, folder: Path) -> Manifest:
    """Give a manifest that speaks of the files in a folder."""
    files = {
        file.relative_to(folder).as_posix(): FileEntry(sha256=hash_file(file), n_bytes=file.stat().st_size)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    return msgspec.structs.replace(manifest, seal=compute_seal(msgspec.json.encode(manifest)))


def _write_part(file: Path, content: Path | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        with file.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    elif content.is_dir():
        for one in content.iterdir():  # copytree's error has no reason of its own
            _write_part(file / one.name, one)
    else:
        shutil.copyfile(content, file)


def _exchange(draft: Path, place: Path) -> None:
    """Put draft where place is; afterwards draft is the old bundle, or gone."""
    if not place.exists():
        draft.rename(place)
        return
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        at_cwd, exchange = -100, 2
        if libc.renameat2(at_cwd, os.fsencode(draft), at_cwd, os.fsencode(place), exchange) == 0:
            return
    aside = draft.parent.with_name(f"{draft.parent.name}.old")
    place.rename(aside)
    draft.rename(place)
    shutil.rmtree(aside, ignore_errors=True)
