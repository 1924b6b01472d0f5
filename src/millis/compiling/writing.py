"""What a library says when it cannot write its files, as a sentence.

Border: wraps the one call that writes.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millis.errors import RunFailed


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Remove place, the file or folder that the block writes, when the block cannot end, and say so.

    Raises:
        RunFailed: whatever the block raised; a full disk, mostly. It stands behind as the cause.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:  # exporters raise RuntimeError, protobuf's own errors, or none and read back half a file
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
        said = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        disk = next(folder for folder in place.absolute().parents if folder.is_dir())
        free_mb = shutil.disk_usage(disk).free / 1e6
        raise RunFailed(
            f"model files cannot be written to {place.name} ({type(error).__name__}: {said}). {free_mb:,.0f} MB are"
            " free on that disk: where that is little, free some and run the same command again."
        ) from error
