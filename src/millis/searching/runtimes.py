"""Which variants can be built and run here: a runtime that is not installed, or has not the device, is left out.

Border: asks the backends; builds nothing. A backend refuses a device before it looks at files, so an empty folder does.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path

from millis.backends import Backend, BackendSettings, backends
from millis.errors import InvalidBundle, InvalidValue, MissingExtra
from millis.searching.candidates import Variant, propose

_BUILT_WITH = {"openvino-int8": "nncf", "onnxruntime-fp32": "onnx", "onnxruntime-int8": "onnx"}
"""Libraries that building needs beside the runtime's own."""


def choose_variants(*, device: str) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """Give the variants that can be built for a device here, and of each other one why not.

    Raises:
        InvalidValue: there is none; the message has every reason.
    """
    reasons = {variant: _why_not(variant, device=device) for variant in propose(device=device)}
    found = tuple(variant for variant, reason in reasons.items() if reason is None)
    names: dict[str, list[str]] = {}
    for variant, reason in reasons.items():
        if reason is not None:
            names.setdefault(reason, []).append(variant.name)
    told = tuple(f"without {', '.join(of_reason)}: {reason}" for reason, of_reason in names.items())
    if not found:
        raise InvalidValue(f"nothing can be built for device {device!r} here. {' '.join(told)}")
    return found, told


def _why_not(variant: Variant, *, device: str) -> str | None:
    try:
        backend: Backend = backends[variant.backend]()
        with tempfile.TemporaryDirectory(prefix="millis-device-") as empty:
            backend.load(Path(empty), settings=BackendSettings(device=device))
    except (MissingExtra, InvalidValue) as error:
        return str(error)
    except InvalidBundle:  # the device is there, the files are not
        pass
    library = _BUILT_WITH.get(variant.runtime)
    if library is not None and find_spec(library) is None:
        return f"building it needs {library}, which is not installed: pip install {library}."
    return None
