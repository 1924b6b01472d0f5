"""Where compiled models are kept between starts: outside the bundle, by the hash of what was compiled.

Border: names a folder; the backend fills it. Safe to delete at any time.
"""

import os
from pathlib import Path

from millis.bundles.bundle import Bundle
from millis.bundles.manifest import Rung


def compiled_cache(bundle: Bundle, rung: Rung) -> Path:
    """Name the folder for a rung's compiled models: $MILLIS_CACHE, or the user's cache folder."""
    files = sorted(bundle.manifest.files.items())
    entries = [entry.sha256 for name, entry in files if name.startswith(f"{rung.folder}/")]
    return cache_root() / "compiled" / (entries[0] if entries else "none")[:32]


def cache_root() -> Path:
    """Name the folder of everything that can be made again."""
    named = os.environ.get("MILLIS_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millis"
