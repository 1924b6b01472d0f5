"""What ordinary requests look like: how common each piece is, how long texts are, how odd one text may be.

A text's surprise is how improbable its pieces are where pieces are drawn as in train, in nats a piece: words, scripts
and spellings that train does not have raise it.
Border: ids in, numbers out; one small file in a bundle. No text is kept, and no text can be made of it.
Limits: single pieces, not their order; it sees another vocabulary, not another meaning of the same words.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millis.errors import InvalidBundle

FILE = "profile.npz"
SIGNALS = ("surprise", "tokens")
_BINS, _LEAST_IN_BIN = 10, 20
"""Parts that dev is sorted into: fewer of a small one, whose own chance moves the index by (parts - 1) / texts."""

_ODD_PERCENTILE = 99.5


class Spread(NamedTuple):
    """How a signal is spread: edges between equal parts of dev, float64 (P - 1,), and dev's share in each, (P,)."""

    edges: NDArray[np.float64]
    shares: NDArray[np.float64]

    def place(self, value: float) -> int:
        """Give the part that a value falls into."""
        return int(np.searchsorted(self.edges, value, side="left"))


class Profile:
    """How common pieces are, and how the signals of dev are spread.

    Args:
        surprises: nats of each piece, float32 (V,); 0 of those that stand around every text.
        spreads: by signal.
        odd: a surprise above this is out of what dev has, but for one text in 200.
    """

    def __init__(self, surprises: NDArray[np.float32], *, spreads: Mapping[str, Spread], odd: float) -> None:
        self.surprises, self.spreads, self.odd = surprises, spreads, odd

    @classmethod
    def learn(
        cls, train: Sequence[NDArray[np.int64]], dev: Sequence[NDArray[np.int64]], *, n_pieces: int,
        unknown: int | None = None, special: Sequence[int] = (),
    ) -> "Profile":  # fmt: skip
        """Count pieces of train, and measure dev by them.

        Args:
            train, dev: ids of windows, int64 (T,).
            n_pieces: V.
            unknown: id of the piece for what has no piece; however often train has it, it is as unusual as one that
                train does not have, since it may stand for anything.
            special: ids around every text, which say nothing of it.
        """
        counts = np.bincount(np.concatenate(train), minlength=n_pieces).astype(np.float64)
        counts[[] if unknown is None else [unknown]] = 0
        counts += 1
        surprises = -np.log(counts / counts.sum()).astype(np.float32)
        surprises[list(special)] = 0
        found = {
            "surprise": np.array([_mean(surprises[ids]) for ids in dev]),
            "tokens": np.array([len(ids) for ids in dev], np.float64),
        }
        spreads = {name: _spread(values) for name, values in found.items()}
        return cls(surprises, spreads=spreads, odd=float(np.percentile(found["surprise"], _ODD_PERCENTILE)))

    def measure(self, ids: NDArray[np.int64]) -> dict[str, float]:
        """Give a window's signals."""
        return {"surprise": _mean(self.surprises[ids]), "tokens": float(len(ids))}

    def write(self) -> bytes:
        """Give the file's content."""
        out = io.BytesIO()
        arrays = {
            f"{name}_{field}": array for name, one in self.spreads.items() for field, array in one._asdict().items()
        }
        arrays |= {"surprises": self.surprises.astype(np.float16), "odd": np.array(self.odd)}
        np.savez_compressed(out, **arrays)
        return out.getvalue()


def read_profile(folder: Path, *, n_pieces: int) -> Profile | None:
    """Read the profile of a bundle's folder; None where it has none.

    Raises:
        InvalidBundle: it is of other pieces.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as content:
            surprises = content["surprises"].astype(np.float32)
            spreads = {name: Spread(content[f"{name}_edges"], content[f"{name}_shares"]) for name in SIGNALS}
            odd = float(content["odd"])
    except (OSError, ValueError, KeyError) as error:
        raise InvalidBundle(f"{FILE} cannot be read ({type(error).__name__}): make the bundle anew.") from error
    if len(surprises) != n_pieces:
        raise InvalidBundle(
            f"{FILE} speaks of {len(surprises):,} pieces and the tokenizer of {n_pieces:,}: make the bundle anew."
        )
    return Profile(surprises, spreads=spreads, odd=odd)


def _mean(surprises: NDArray[np.float32]) -> float:
    """Give the mean of those that say something, of which none is 0."""
    return float(surprises.sum(dtype=np.float64) / max(np.count_nonzero(surprises), 1))


def _spread(values: NDArray[np.float64]) -> Spread:
    n = min(max(len(values) // _LEAST_IN_BIN, 2), _BINS)
    edges = np.quantile(values, np.arange(1, n) / n)
    places = np.searchsorted(edges, values, side="left")  # where values are equal, parts are not
    return Spread(edges, np.bincount(places, minlength=n) / len(values))
