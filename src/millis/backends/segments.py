"""The second of two texts in one window, told from the first by what is added to its embeddings.

A base with two token types adds one of two vectors to the embedding of each token. A graph that begins behind the word
embeddings (openvino) holds the first; what the second has more is added here, to the tokens behind the separator.
Border: reads and writes second.npz, {"separator": id, "offset": float32 (D,)}; numpy is all it needs.
Source: segment embeddings of Devlin et al. 2019, arXiv:1810.04805, 3; that the difference may be added outside the
graph follows from their being summed with the word's before anything else happens.
"""

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

FILE = "second.npz"


class Second(NamedTuple):
    """What the second text's tokens have more.

    Args:
        separator: id of the token behind which they stand.
        offset: float32 (D,).
    """

    separator: int
    offset: NDArray[np.float32]

    def add(self, embedded: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Add it, in place, to embeddings (..., T, D) of ids (..., T)."""
        is_separator = ids == self.separator
        embedded[np.cumsum(is_separator, axis=-1) > is_separator] += self.offset

    def write(self, folder: Path) -> None:
        """Write it beside a model's files."""
        np.savez(folder / FILE, separator=self.separator, offset=self.offset)


def read_second(folder: Path) -> Second | None:
    """Read what stands beside a model's files; None where its network tells no two texts apart.

    Raises:
        OSError, ValueError, KeyError: it is cut short, or is something else.
    """
    if not (folder / FILE).is_file():
        return None
    try:
        with np.load(folder / FILE, allow_pickle=False) as parts:
            return Second(int(parts["separator"]), parts["offset"].astype(np.float32))
    except BadZipFile as error:
        raise ValueError(f"{FILE} is cut short") from error
