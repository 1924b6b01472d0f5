"""Static token vectors: no attention at all, a lookup, a mean and a small head, in microseconds.

A text is the mean of the vectors of its pieces and of its pairs of neighbouring pieces; two matrices make logits of it.
Order beyond neighbours is lost. Only for networks that speak of whole texts.
Border: reads table.npy (V, D) and pairs.npy (N, D) in float16, memory-mapped, and head.npz; numpy is all it needs.
Source: mean of vectors and hashed pairs as in fastText (arXiv:1607.01759); vectors that start from a network's own, as
in model2vec (doi:10.5281/zenodo.17270888).
"""

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from millis.backends.backend import BackendSettings, Batch, Batching
from millis.errors import InvalidBundle, InvalidValue

TABLE, PAIRS, HEAD = "table.npy", "pairs.npy", "head.npz"
_MIXER = 1_000_003


class StaticWeights(NamedTuple):
    """A static model.

    Args:
        table, pairs: float16 (V, D), (N, D).
        inside, inside_bias: float32 (D, H), (H,), before a ReLU.
        out, out_bias: float32 (H, R * C), (R * C,).
        rows: R.
    """

    table: NDArray[np.float16]
    pairs: NDArray[np.float16]
    inside: NDArray[np.float32]
    inside_bias: NDArray[np.float32]
    out: NDArray[np.float32]
    out_bias: NDArray[np.float32]
    rows: int


def save_static(folder: Path, weights: StaticWeights) -> None:
    """Write the files of a static model."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / TABLE, weights.table)
    np.save(folder / PAIRS, weights.pairs)
    np.savez(
        folder / HEAD, inside=weights.inside, inside_bias=weights.inside_bias, out=weights.out,
        out_bias=weights.out_bias, rows=np.array(weights.rows),
    )  # fmt: skip


def hash_pairs(ids: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Give the place among n of each pair of neighbours: ids (..., T) to (..., T - 1)."""
    return (ids[..., :-1] * _MIXER + ids[..., 1:]) % n


class StaticBackend:
    """Any length runs as it comes."""

    name = "static"
    batching: Batching | None = None

    def load(self, folder: Path, *, settings: BackendSettings) -> None:
        """Map the tables and read the head; the device is always "cpu"."""
        if settings.device != "cpu":
            raise InvalidValue(f"backend static has no device {settings.device!r}: it knows cpu.")
        try:
            table, pairs = (np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in (TABLE, PAIRS))
            with np.load(folder / HEAD, allow_pickle=False) as head:
                arrays = {name: head[name] for name in ("inside", "inside_bias", "out", "out_bias", "rows")}
            self._weights = StaticWeights(table, pairs, **(arrays | {"rows": int(arrays["rows"])}))
            width, hidden = self._weights.inside.shape
            is_whole = table.shape[1] == pairs.shape[1] == width and self._weights.out.shape[0] == hidden
        except (OSError, ValueError, KeyError, EOFError, AttributeError, IndexError, BadZipFile) as error:
            raise _not_loaded() from error
        if not is_whole:
            raise _not_loaded()

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Give logits (B, R, C), row by row, so that padding cannot matter."""
        pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        rows = [self._answer(ids[: int(mask.sum())]) for ids, mask in pairs]
        return {"logits": np.stack(rows)}

    def _answer(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        one = self._weights
        total = one.table[ids].sum(axis=0, dtype=np.float32)
        if len(ids) > 1:
            total += one.pairs[hash_pairs(ids, len(one.pairs))].sum(axis=0, dtype=np.float32)
        hidden = np.maximum(total / len(ids) @ one.inside + one.inside_bias, 0)
        logits: NDArray[np.float32] = (hidden @ one.out + one.out_bias).reshape(one.rows, -1)
        return logits

    def close(self) -> None:
        """Let the tables go."""
        del self._weights


def _not_loaded() -> InvalidBundle:
    return InvalidBundle(
        f"{TABLE}, {PAIRS} or {HEAD} cannot be loaded: missing, truncated, or of another model. Make the bundle anew."
    )
