"""What was measured on this machine and is kept in the user's cache, so that it is not measured again.

Border: values by a key to files and back; a file that is gone or not whole was never there.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from millis.bundles.bundle import TOKENIZER, hash_file
from millis.bundles.cache import cache_root
from millis.models.weights import weights_files
from millis.telemetry.progress import say


def make_key(told: list[Any]) -> str:
    """Make a key of all that a measurement depends on, values that JSON has."""
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()[:24]


def hash_base(base: Path) -> list[str]:
    """Hash what decides a base's answers, for a key."""
    return [hash_file(file) for file in (base / "config.json", base / TOKENIZER, *weights_files(base))]


def recall(shelf: str, key: str, *, kind: Any) -> Any:
    """Give what was kept under a key, of this type; None where nothing was, or nothing whole."""
    try:
        return msgspec.json.decode((cache_root() / shelf / f"{key}.json").read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def remember(shelf: str, key: str, *, value: Any) -> None:
    """Keep a value under a key; where that cannot be, say so and go on."""
    file = cache_root() / shelf / f"{key}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(value))
    except OSError as error:
        say(f"what was measured is not kept ({error.strerror}): it will be measured again")
