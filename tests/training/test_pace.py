"""A head on a base whose token vectors lie close together learns as well as on another."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import toy
from millis.models.taggers import build_tagger
from millis.tasks.task import Head, Window
from millis.training.pace import choose_pace, measure_spread

EPOCHS = {"epochs": 2, "patience": None, "learning_rate": 2e-3}
WINDOWS = [Window(ids=np.array([2, 4 + i, 20 + i, 3], np.int64)) for i in range(12)]


def write_close_base(folder: Path, *, times: float) -> Path:
    """Write the toy base with its last norm scaled, so that all tokens' vectors lie closer together."""
    base = toy.write_base(folder)
    tensors = load_file(base / "model.safetensors")
    last = [name for name in tensors if "layer.1.output.LayerNorm" in name]
    assert len(last) == 2
    save_file(tensors | {name: times * tensors[name] for name in last}, base / "model.safetensors")
    return base


def test_the_spread_is_that_of_the_bases_last_states(tmp_path: Path) -> None:
    spreads = []
    for times in (1.0, 0.1):
        base = write_close_base(tmp_path / str(times), times=times)
        tagger = build_tagger(base, head=Head(("O", "NAME")), seed=1).train()
        spreads.append(measure_spread(tagger, WINDOWS))
        assert tagger.network.training
    assert spreads[1] == pytest.approx(spreads[0] / 10, rel=1e-4)


def test_heads_of_tokens_learn_faster_on_a_close_base_and_no_others_do(tmp_path: Path) -> None:
    base = write_close_base(tmp_path / "base", times=0.1)
    tokens, texts = Head(("O", "NAME")), Head(("yes", "no"), rows=1)
    tagger = build_tagger(base, head=tokens, seed=1)
    pace, reason = choose_pace(tagger, WINDOWS, head=tokens, adapt="full")
    assert pace == 100
    assert reason is not None
    assert choose_pace(tagger, WINDOWS, head=tokens, adapt="lora") == (30.0, None)
    assert choose_pace(build_tagger(base, head=texts, seed=1), WINDOWS, head=texts, adapt="full") == (1.0, None)


def test_a_close_base_learns_the_task_and_says_how(tmp_path: Path) -> None:
    base = write_close_base(tmp_path / "base", times=0.1)
    result = toy.run(base, tmp_path / "run", **EPOCHS)
    assert result.dev_score.value > 90
    assert any("times as fast" in reason for reason in result.reasons)
