"""Learning by contrast: a query's vector is to be nearer to the text that fits it than to all others of its batch.

Border: which windows run together, and the loss of their vectors; the network and the steps are others' matter.
Source: InfoNCE with the batch's other texts as negatives, van den Oord et al. 2018, arXiv:1807.03748, and Henderson et
al. 2017, arXiv:1705.00652; hard negatives as in Karpukhin et al. 2020, arXiv:2004.04906; the sum over sizes of a vector
as in Kusupati et al. 2022, arXiv:2205.13147. Ours knows which texts fit a query, so a text that fits is never among its
negatives.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from millis.errors import InvalidData

_TEMPERATURE = 0.05


class Contrast:
    """The pairs of examples, and their loss.

    Args:
        examples: MatchExamples, one window each, in the same order.
        sizes: of vectors; the loss is that of all sizes, in the mean.
    Attributes:
        units: places of examples that run together: a query, a text that fits it, and where there is one a text that
            does not.
    Raises:
        InvalidData: no query has a text that fits among the examples.
    """

    def __init__(self, examples: Sequence[Any], *, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)
        places = {example.text: place for place, example in enumerate(examples)}
        self._fits: dict[int, set[int]] = {}
        self.units: list[tuple[int, ...]] = []
        for place, example in enumerate(examples):
            fits = [places[text] for text in example.positives if text in places]
            hard = [places[text] for text in example.negatives if text in places]
            self._fits[place] = {place, *fits}
            self.units += [
                (place, fit, *([hard[i % len(hard)]] if hard else [])) for i, fit in enumerate(fits)
            ]
        if not self.units:
            raise InvalidData("no query of train has a text that fits it in train: give queries with both.")

    def fingerprint(self) -> str:
        """Give a hash of what is to be learnt."""
        return hashlib.sha256(repr((self._sizes, self.units, sorted(self._fits.items()))).encode()).hexdigest()

    def loss(self, vectors: torch.Tensor, units: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Give the loss, float32 (), of a batch.

        Args:
            vectors: of the units' windows one behind the other, float (B, D).
            units: those of the batch.
        """
        order = [place for unit in units for place in unit]
        starts = [0]
        for unit in units:
            starts.append(starts[-1] + len(unit))
        asked = set(starts[:-1])
        others = [i for i in range(len(order)) if i not in asked]
        column = {i: j for j, i in enumerate(others)}
        device = vectors.device
        queries, passages = torch.tensor(starts[:-1], device=device), torch.tensor(others, device=device)
        right = torch.tensor([column[start + 1] for start in starts[:-1]], device=device)
        fits = torch.tensor([[order[i] in self._fits[unit[0]] for i in others] for unit in units], device=device)
        fits[torch.arange(len(units), device=device), right] = False  # of all that fit, the one looked for stays
        losses = []
        for size in self._sizes:
            unit_vectors = torch.nn.functional.normalize(vectors[:, :size].float(), dim=-1)
            cosines = unit_vectors[queries] @ unit_vectors[passages].T
            losses.append(
                torch.nn.functional.cross_entropy((cosines / _TEMPERATURE).masked_fill(fits, float("-inf")), right)
            )
        return torch.stack(losses).mean()
