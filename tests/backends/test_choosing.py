"""Pieces are chosen as they were asked for."""

import numpy as np
import pytest

from millis.backends.choosing import Chooser
from millis.backends.generator import Sampling

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def _draw(n: int, logits: np.ndarray = LOGITS, **asked: float) -> list[int]:
    return [Chooser(Sampling(max_tokens=1, seed=seed, **asked)).choose(logits)[0] for seed in range(n)]


def test_temperature_0_takes_the_likeliest_and_says_how_likely() -> None:
    piece, logprob = Chooser(Sampling(max_tokens=1, has_logprobs=True)).choose(LOGITS)
    assert piece == 0
    assert logprob == pytest.approx(np.log(0.5), abs=1e-6)


def test_pieces_are_drawn_as_often_as_they_are_likely() -> None:
    drawn = np.bincount(_draw(4000, temperature=1.0), minlength=4) / 4000
    assert drawn == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_low_temperature_sharpens() -> None:
    drawn = np.bincount(_draw(2000, temperature=0.5), minlength=4) / 2000
    squares = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert drawn == pytest.approx(squares / squares.sum(), abs=0.03)
    assert set(_draw(20, temperature=5e-324)) == {0}  # the least there is


def test_top_p_leaves_the_fewest_that_suffice() -> None:
    assert set(_draw(500, temperature=1.0, top_p=0.75)) == {0, 1}
    assert set(_draw(500, temperature=1.0, top_p=0.1)) == {0}
    assert set(_draw(2000, temperature=1.0, top_p=0.999)) == {0, 1, 2, 3}
    flat = np.zeros(5000, np.float32)  # more than are sorted first
    assert 1200 < len(set(_draw(1500, flat, temperature=1.0, top_p=0.9))) <= 1500


def test_penalties_push_down_what_was_said() -> None:
    chooser = Chooser(Sampling(max_tokens=9, frequency_penalty=2.0))
    assert [chooser.choose(LOGITS)[0] for _ in range(3)] == [0, 1, 2]
    chooser = Chooser(Sampling(max_tokens=9, presence_penalty=0.6, has_logprobs=True))
    assert [chooser.choose(LOGITS)[0] for _ in range(3)] == [0, 1, 0]  # once, however often it was said
    assert chooser.choose(LOGITS)[1] == pytest.approx(np.log(0.5), abs=1e-6)  # the model's, not what was left
