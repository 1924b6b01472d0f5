"""Train only the embedding rows that the training text uses.

A row whose piece never occurs has no gradient and, without weight decay, never changes; but its share of the
dense gradient, of the optimizer's step and of every checkpoint is paid all the same: for a base of 250,000
pieces more than the encoder itself. So the rows in use are trained as a table of their own; the result is the
same but for rounding.

Border: a tagger's word embeddings and the ids that go in, that of a separator among them; nothing else of the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from millis.backends.encoder import SECOND
from millis.errors import InvalidBase
from millis.models.taggers import Tagger
from millis.tasks.task import Window


class UsedRows:
    """The rows of a tagger's word embeddings that windows use, in the tagger in place of all of them.

    Usage:
        rows = UsedRows(tagger, windows)      # the tagger now takes ids in the small table
        rows.renumber(window)                 # such ids
        with rows.whole():                    # the tagger takes its own ids again, with what was learnt
            save_tagger(tagger, ...)

    Raises:
        InvalidBase: the tokenizer gives an id that the base has no row for.
    """

    def __init__(self, tagger: Tagger, windows: Sequence[Window]) -> None:
        self._tagger = tagger
        self._all: torch.nn.Embedding = tagger.network.get_input_embeddings()
        # Ids up to the padding's keep their numbers: RoBERTa counts positions from the id that pads.
        kept = np.arange(tagger.pad_id + 1)
        used = np.unique(np.concatenate([kept, *(window.ids for window in windows)]))
        self.n, self.n_all = len(used), self._all.num_embeddings
        if used[-1] >= self.n_all:
            raise InvalidBase(
                f"the tokenizer gives piece {used[-1]}, and the base has {self.n_all} embedding rows: the two"
                " do not belong together. Give the tokenizer.json that came with the base."
            )
        self._numbers = np.full(self.n_all, -1, np.int64)
        self._numbers[used] = np.arange(self.n)
        self._second: int | None = getattr(tagger.config, SECOND, None)
        self._used = torch.from_numpy(used)
        self._few = torch.nn.Embedding(
            self.n,
            self._all.embedding_dim,
            padding_idx=self._all.padding_idx,
            _weight=self._all.weight.detach()[used],
        )
        self._take(self._few)

    def renumber(self, window: Window) -> Window:
        """Give a window its ids in the small table."""
        return replace(window, ids=self._numbers[window.ids])

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Put all rows back, the trained ones as they now are, while the block runs."""
        with torch.no_grad():
            self._all.weight[self._used] = self._few.weight
        self._take(self._all)
        try:
            yield
        finally:
            self._take(self._few)

    def _take(self, table: torch.nn.Embedding) -> None:
        """Have the tagger take ids in a table, the separator of two texts too."""
        self._tagger.network.set_input_embeddings(table)
        if self._second is not None:
            number = self._second if table is self._all else int(self._numbers[self._second])
            setattr(self._tagger.config, SECOND, number)
