"""What a backend is: five members, and the settings it is loaded with.

Border: the interface only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from millis.errors import InvalidValue

Batch = Mapping[str, NDArray[np.int64]]
"""input_ids and attention_mask, int64 (B, T) each; the mask is 1 on real tokens and 0 on padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """How a model file is to be loaded.

    Args:
        device: "cpu", "cuda", "gpu", ...; the backend maps it to a provider or device of its own.
        threads: threads inside one inference.
        streams: how many threads may call `run` at once.
        buckets: static token counts to compile for, ascending; None means any length, unpadded.
        rows: of a batch that static shapes are compiled for too, beside one; what takes any shape needs none of that.
        cache: folder for compiled models, or None to compile anew each time.
        table: file of the word embeddings where it stands outside the model's folder; only for a backend that looks
            rows up itself (openvino).
        packed_from: share of zeros from which a matrix is kept without them, where the backend can (openvino on a
            processor with AMX); None keeps every matrix as it is.
    """

    device: str = "cpu"
    threads: int = 1
    streams: int = 1
    buckets: tuple[int, ...] | None = None
    rows: int = 1
    cache: Path | None = None
    table: Path | None = None
    packed_from: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that no backend could mean."""
        if self.threads < 1 or self.streams < 1 or self.rows < 1:
            raise InvalidValue(
                f"threads {self.threads} with streams {self.streams} and rows {self.rows} cannot be: give 1 or more of"
                " each."
            )
        if self.buckets is not None and (
            not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 1
        ):
            raise InvalidValue(
                f"buckets cannot be {self.buckets}: give positive token counts, ascending, each once."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How much a device takes at once.

    Args:
        max_rows: rows of a batch.
        max_tokens: of a batch, padding included: rows times the longest.
    """

    max_rows: int
    max_tokens: int

    def __post_init__(self) -> None:
        """Refuse what lets nothing through."""
        if self.max_rows < 1 or self.max_tokens < 1:
            raise InvalidValue(
                f"batches of {self.max_rows} rows and {self.max_tokens} tokens cannot be: give 1 or more of each."
            )


class Backend(Protocol):
    """One loaded model: arrays in, arrays out."""

    name: str

    batching: Batching | None
    """Since it was loaded: what it runs at once, where several rows cost little more than one; None where each row
    is better run alone. A batch of one row is always taken, however long."""

    def load(self, folder: Path, *, settings: BackendSettings) -> None:
        """Load the model files in folder and make every bucket ready to run.

        Raises:
            InvalidValue: the device is not one of this backend's, or is not on this machine.
            InvalidBundle: a model file is missing or cannot be read.
        """

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Give {"logits": float32 (B, R, C)} for a batch whose T is a bucket (any T when there are none).

        R is T for a network that speaks of each token, and fixed for one that speaks of the whole text.

        As many callers at once as settings.streams. The arrays returned belong to the caller.
        """

    def close(self) -> None:
        """Free what load took; a closed backend may be loaded again."""
