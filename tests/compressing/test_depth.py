"""Layers of a model that speaks go whole: what is left is the model that passes them by."""

from pathlib import Path

import numpy as np
import pytest
import torch

from millis.compiling.causal import convert_causal, run_stateful
from millis.compressing.depth import choose_layers, keep_layers
from millis.errors import InvalidValue
from millis.models.speakers import Speaker, load_speaker
from millis.training.lessons import Lesson
from millis.training.settings import TrainSettings
from speaking import make_speaker

pytestmark = pytest.mark.slow
IDS = np.arange(3, 43)


@pytest.fixture(params=["llama", "qwen2", "gemma3_text"])
def speaker(request: pytest.FixtureRequest, tmp_path: Path) -> Speaker:
    return load_speaker(str(make_speaker(tmp_path / "base", family=request.param, n_layers=7)))


def test_without_layers_a_model_answers_exactly_as_one_that_passes_them_by(speaker: Speaker) -> None:
    short = keep_layers(speaker, [0, 3, 5, 6])
    assert (len(speaker.model.model.layers), speaker.model.config.num_hidden_layers) == (7, 7)
    ids = torch.from_numpy(IDS)[None]
    with torch.no_grad():
        whole = speaker.model(ids, use_cache=False).logits
        for i in (1, 2, 4):  # each gives what it gets
            speaker.model.model.layers[i].register_forward_hook(lambda layer, given, made: given[0])
        want = speaker.model(ids, use_cache=False).logits
        got = short.model(ids, use_cache=False).logits
    assert torch.equal(got, want)
    assert not torch.equal(got, whole)
    compiled = run_stateful(convert_causal(short.model), IDS, n_first=20)
    assert np.abs(compiled - want[0].numpy()).max() < 1e-2


def test_the_layers_that_answers_need_least_go_first(tmp_path: Path) -> None:
    model = load_speaker(str(make_speaker(tmp_path / "base", n_layers=7))).model
    for i in (2, 4):
        model.model.layers[i].self_attn.o_proj.weight.data.zero_()
        model.model.layers[i].mlp.down_proj.weight.data.zero_()
    prompts = torch.from_numpy(np.random.default_rng(3).integers(0, 250, (20, 8)))
    said = model.generate(prompts, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    lessons = [Lesson(one.numpy(), 8) for one in said]  # what the model says itself: each layer that works is needed
    settings = TrainSettings(autocast="off")
    kept = choose_layers(model, lessons, n=5, settings=settings)
    assert kept.layers == (0, 1, 3, 5, 6)
    assert kept.loss == pytest.approx(kept.loss_before, abs=1e-5)
    fewer = choose_layers(model, lessons, n=4, settings=settings)
    assert fewer.loss > kept.loss
    assert set(fewer.layers) < set(kept.layers)
    assert len(model.model.layers) == 7
    with pytest.raises(InvalidValue, match="give 1 to 7"):
        choose_layers(model, lessons, n=8, settings=settings)
