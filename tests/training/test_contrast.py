"""The loss by contrast, against a plain count."""

import math

import numpy as np
import pytest
import torch

from millis.data.examples import MatchExample
from millis.errors import InvalidData
from millis.training.contrast import Contrast

EXAMPLES = [
    MatchExample(text="q1", positives=("p1",), negatives=("p3", "not here")),
    MatchExample(text="q2", positives=("p2", "p1")),
    MatchExample(text="p1", is_passage=True),
    MatchExample(text="p2", is_passage=True),
    MatchExample(text="p3", is_passage=True),
]


def test_units_are_pairs_with_a_hard_negative_where_there_is_one() -> None:
    assert Contrast(EXAMPLES, sizes=(4,)).units == [(0, 2, 4), (1, 3), (1, 2)]


def test_the_loss_looks_for_the_right_passage_among_those_that_do_not_fit() -> None:
    contrast = Contrast(EXAMPLES, sizes=(4, 2))
    vectors = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    got = float(contrast.loss(vectors, [(0, 2, 4), (1, 3)]))
    total = 0.0
    for size in (4, 2):
        rows = vectors[:, :size].numpy()
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        q1, p1, p3, q2, p2 = unit
        for query, right, wrong in ((q1, p1, (p3, p2)), (q2, p2, (p3,))):  # p1 fits q2 too, so it is no negative
            odds = [math.exp(float(query @ one) / 0.05) for one in (right, *wrong)]
            total -= math.log(odds[0] / sum(odds)) / 4
    assert got == pytest.approx(total, rel=1e-4)


def test_a_batch_of_one_pair_teaches_nothing() -> None:
    loss = Contrast(EXAMPLES, sizes=(4,)).loss(torch.ones(2, 4), [(1, 3)])
    assert float(loss) == 0.0


def test_another_negative_is_another_run() -> None:
    other = [MatchExample(text="q1", positives=("p1",)), *EXAMPLES[1:]]
    assert Contrast(other, sizes=(4,)).fingerprint() != Contrast(EXAMPLES, sizes=(4,)).fingerprint()


def test_no_pair_is_a_sentence() -> None:
    with pytest.raises(InvalidData, match="no query of train has a text that fits it in train"):
        Contrast(EXAMPLES[2:], sizes=(4,))
