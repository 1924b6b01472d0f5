"""A bundle on disk, opened only if every file is as the manifest says.

Border: files and hashes; saving.py writes them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from millis.bundles.manifest import FORMAT, Certificate, FileEntry, Manifest, Rung
from millis.bundles.profile import FILE as PROFILE
from millis.contract import Contract, Verdict
from millis.errors import InvalidBundle, InvalidValue
from millis.regular import read_regular

MANIFEST = "manifest.json"
CERTIFICATE = "certificate.json"
CERTIFICATES = "certificates"
"""Folder of the certificates of the rungs that do not serve, RUNG.json each."""

REPORTS = {"en": "report.html", "zh": "report.zh.html"}
"""Pages with plots, by language."""

TOKENIZER = "tokenizer.json"


class _Versioned(msgspec.Struct):
    """What every manifest has, of whatever format."""

    format: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its place and its manifest, every file checked."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.manifest.name

    @property
    def certificate(self) -> Certificate | None:
        """The proof of the rung that serves, or None when it was never measured."""
        return self.certificate_of(self.manifest.rung)

    def certificate_of(self, rung: str) -> Certificate | None:
        """Give the proof of a rung, or None when it was never measured."""
        file = certificate_file(rung, serving=self.manifest.rung)
        if file not in self.manifest.files:
            return None
        try:
            certificate = msgspec.json.decode((self.path / file).read_bytes(), type=Certificate)
            msgspec.convert(certificate.verdict, type=Verdict)
            return certificate
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidBundle(
                f"{self.path.name}: {file} cannot be read ({error}). Copy the bundle again or make it anew."
            ) from error

    def rung(self, name: str | None = None) -> Rung:
        """Give a rung by name, or the one that serves.

        Raises:
            InvalidValue: there is no such rung; the message lists those there are.
        """
        wanted = name or self.manifest.rung
        for rung in self.manifest.rungs:
            if rung.name == wanted:
                return rung
        known = ", ".join(rung.name for rung in self.manifest.rungs)
        raise InvalidValue(f"bundle {self.name} has no rung {wanted!r}: choose one of {known}.")

    def count_bytes(self, rung: Rung) -> int:
        """Count the bytes of a rung's files, of the table that it shares too."""
        entries = self.manifest.files.items()
        return sum(entry.n_bytes for name, entry in entries if _is_of(rung, name))

    def subject(self, rung: str | None = None) -> dict[str, str]:
        """Give the hashes of the files that decide the answers of a rung, or of the one that serves, or their time."""
        mine = self.rung(rung)
        return {
            file: entry.sha256
            for file, entry in self.manifest.files.items()
            if file != PROFILE
            and not _is_proof(file)
            and (_is_of(mine, file) or not any(_is_of(one, file) for one in self.manifest.rungs))
        }

    def identify(self) -> str:
        """Give a hash of all but its name and proofs: another name, certificate or report leaves it as it is."""
        files = {file: entry for file, entry in self.manifest.files.items() if not _is_proof(file)}
        return compute_seal(msgspec.json.encode(msgspec.structs.replace(self.manifest, name="", files=files)))


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check every file against its manifest.

    Raises:
        InvalidBundle: names the file that is missing, truncated, altered, or not of the manifest, or what the manifest
            says that cannot be.
    """
    try:
        str(path).encode()
        return _open(path)
    except UnicodeEncodeError as error:
        raise InvalidBundle(f"{str(path)!r} is not in UTF-8: rename the folder to something that is.") from error
    except OSError as error:
        raise InvalidBundle(
            f"{path} cannot be read ({error.strerror}): give a folder whose files you may read."
        ) from error


def _open(path: str | Path) -> Bundle:
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InvalidBundle(f"{path} {what}: give the folder NAME.millis that `millis fit -o NAME.millis` writes.")
    manifest = _read_manifest(folder)
    _check_manifest(folder, manifest)
    for name, entry in manifest.files.items():
        check_file(folder, name, entry, remedy="Copy the bundle again or make it anew.")
    strange = sorted(
        str(file.relative_to(folder).as_posix())
        for file in folder.rglob("*")
        if file.is_symlink()
        or (not file.is_dir() and file.relative_to(folder).as_posix() not in {*manifest.files, MANIFEST})
    )
    if strange:
        what = "is a link" if (folder / strange[0]).is_symlink() else "is not in the manifest"
        raise InvalidBundle(f"{folder.name}: {strange[0]} {what}. Take it out of the folder.")
    bundle = Bundle(folder, manifest)
    for rung in manifest.rungs:
        certificate = bundle.certificate_of(rung.name)
        if certificate is not None and certificate.subject != bundle.subject(rung.name):
            named = certificate_file(rung.name, serving=manifest.rung)
            raise InvalidBundle(
                f"{folder.name}: {named} speaks of other files than these. Copy the bundle again or make it anew."
            )
    return bundle


def _is_of(rung: Rung, file: str) -> bool:
    return file.startswith(f"{rung.folder}/") or file == rung.table


def _is_proof(file: str) -> bool:
    return file in (CERTIFICATE, *REPORTS.values()) or file.startswith(f"{CERTIFICATES}/")


def certificate_file(rung: str, *, serving: str) -> str:
    """Name the file of a rung's certificate, where the rung `serving` serves."""
    return CERTIFICATE if rung == serving else f"{CERTIFICATES}/{rung}.json"


def check_file(folder: Path, name: str, entry: FileEntry, *, remedy: str) -> None:
    """Compare a file with what a manifest says of it.

    Raises:
        InvalidBundle: it is missing, cut short or altered, or its name leads out of the folder.
    """
    file = folder / stay_inside(name)
    if file.is_symlink() or not file.is_file():
        raise InvalidBundle(f"{folder.name}: {name} is missing. {remedy}")
    n_bytes = file.stat().st_size
    if n_bytes != entry.n_bytes:
        raise InvalidBundle(
            f"{folder.name}: {name} has {n_bytes} bytes where the manifest says {entry.n_bytes}: it was cut short or"
            f" altered. {remedy}"
        )
    if hash_file(file) != entry.sha256:
        raise InvalidBundle(f"{folder.name}: {name} was altered (its SHA-256 differs). {remedy}")


def hash_file(file: Path) -> str:
    """Compute a file's SHA-256, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    try:
        content = read_regular(folder / MANIFEST)
    except FileNotFoundError:
        raise InvalidBundle(f"{folder} has no {MANIFEST}: it is not a bundle, or was not copied whole.") from None
    try:
        version = msgspec.json.decode(content, type=_Versioned).format  # first: another format has other keys
        if version != FORMAT:
            raise InvalidBundle(
                f"{folder.name} has format {version}, and this version of millis reads {FORMAT}: make it anew with"
                " this version, or use the one that made it."
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBundle(
            f"{folder.name}: {MANIFEST} cannot be read ({error}): truncated, altered, or of another version. Copy the"
            " bundle again or make it anew."
        ) from error
    if compute_seal(content) != manifest.seal:
        raise InvalidBundle(f"{folder.name}: {MANIFEST} was altered (its seal does not fit). Make the bundle anew.")
    return manifest


def _check_manifest(folder: Path, manifest: Manifest) -> None:
    """Refuse what a whole and well-typed manifest may still say: a seal shows accidents, it is no signature."""
    names = [rung.name for rung in manifest.rungs]
    if manifest.rung not in names or len(set(names)) < len(names):
        raise InvalidBundle(
            f"{folder.name}: {MANIFEST} serves rung {manifest.rung!r} of {names}: it must be one of them, each named"
            " once. Make the bundle anew."
        )
    for rung in manifest.rungs:
        stay_inside(rung.folder)
        if rung.table is not None and rung.table not in manifest.files:
            raise InvalidBundle(
                f"{folder.name}: rung {rung.name} needs {rung.table}, which is not in {MANIFEST}. Make the bundle anew."
            )
    try:
        Contract.from_record(manifest.contract)
    except InvalidValue as error:
        raise InvalidBundle(f"{folder.name}: the contract in {MANIFEST} cannot be: {error}") from error


def compute_seal(content: bytes) -> str:
    """Hash a manifest by what is written in it, so that a later version's new keys break no older bundle."""
    document = {**msgspec.json.decode(content), "seal": ""}
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def stay_inside(name: str) -> PurePosixPath:
    """Refuse a name that leads out of the bundle.

    Raises:
        InvalidBundle: it does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise InvalidBundle(f"a bundle cannot hold a file named {name!r}: names stay inside its folder.")
    return path
