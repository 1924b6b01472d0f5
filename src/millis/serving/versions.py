"""A bundle as a version of what is served: described where it is decided, opened where it is loaded.

Border: bundles and manifests; loads nothing.
"""

import dataclasses

import msgspec

from millis.bundles import Bundle, open_bundle
from millis.errors import InvalidBundle
from millis.serving.placement import Version


def open_version(version: Version) -> Bundle:
    """Open a version's bundle, under the name that requests call it.

    Raises:
        InvalidBundle: as open_bundle, or the folder holds another bundle by now.
    """
    bundle = open_bundle(version.path)
    if bundle.identify() != version.seal:
        raise InvalidBundle(
            f"{bundle.path.name} is another bundle than the version {version.number} of {version.name} that is served:"
            " put the new one into a folder of its own and load it from there."
        )
    return dataclasses.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, name=version.name))


def make_version(bundle: Bundle, *, number: int = 0, name: str | None = None) -> Version:
    """Describe a bundle as a version to be loaded here."""
    manifest = bundle.manifest
    return Version(
        number=number, name=name or bundle.name, path=str(bundle.path.resolve()), seal=bundle.identify(),
        task=manifest.task, contract=manifest.contract, differs=compare_machine(bundle),
    )  # fmt: skip


def compare_machine(bundle: Bundle) -> tuple[str, ...]:
    """Say in what this machine differs from that of a bundle's certificate, as far as it changes speed."""
    certificate = bundle.certificate
    if certificate is None:
        return ()
    from millis.measuring.fingerprint import Fingerprint, fingerprint

    try:
        there = msgspec.convert(certificate.machine, type=Fingerprint)
    except msgspec.ValidationError:
        return ("the certificate's machine cannot be read",)
    return tuple(fingerprint().differences(there))
