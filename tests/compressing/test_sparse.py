"""Zeros stand where the smallest weights of each layer's matrices were, and nowhere else."""

from pathlib import Path

import pytest
import torch

from compressing.test_prune import make_tagger
from millis.backends.encoder import find_parts
from millis.compressing.sparse import zero_weights
from models.tiny import TYPES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", TYPES)
def test_the_smallest_weights_are_zero_and_the_others_as_they_were(kind: str, tmp_path: Path) -> None:
    tagger = make_tagger(tmp_path, kind)
    before = {name: value.clone() for name, value in tagger.state_dict().items()}
    sparse = zero_weights(tagger, share=0.75)
    assert all(torch.equal(value, before[name]) for name, value in tagger.state_dict().items()), "a copy is changed"
    inside = {id(matrix.weight) for part in find_parts(sparse.network) for matrix in (*part.into, part.out)}
    after = dict(sparse.named_parameters())
    assert after.keys() == dict(tagger.named_parameters()).keys(), "of the same shape, nothing hangs on it"
    for name, value in after.items():
        if id(value) in inside:
            is_zero = value == 0
            assert float(is_zero.float().mean()) == pytest.approx(0.75, abs=0.01)
            assert before[name][is_zero].abs().max() <= before[name][~is_zero].abs().min()
            assert torch.equal(value[~is_zero], before[name][~is_zero])
        else:
            assert torch.equal(value, before[name])
