"""Where training runs: said, chosen, and gone on with elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from millis.errors import InvalidValue
from millis.models.devices import choose_device
from millis.training.batches import encode_examples
from millis.training.checkpoints import Checkpoint, Progress, load_checkpoint, save_checkpoint
from millis.training.contrast import Contrast
from millis.training.methods import METHODS
from millis.training.settings import TrainSettings, choose_precision
from millis.training.steps import Steps

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
needs_none = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_base(tmp_path_factory.mktemp("device") / "base")


def make_steps(base: Path, **settings: Any) -> Steps:
    task = toy.ToyTask(base / "tokenizer.json")
    windows = encode_examples(task, toy.make_examples(40, seed=1))
    return Steps(base, head=task.head, windows=windows, settings=TrainSettings(batch_size=8, epochs=2, **settings))


@needs_none
def test_without_a_gpu_training_is_on_the_processor_and_says_so(base: Path) -> None:
    assert make_steps(base).reasons[0] == "on the processor: torch sees no GPU"
    assert make_steps(base, device="cpu").reasons[0] == "on the processor: as set"


@needs_none
def test_a_gpu_that_is_not_there_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"cannot be on cuda: this torch .* sees no GPU. Leave it to auto"):
        toy.run(base, tmp_path, device="cuda")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InvalidValue, match="'abacus': choose one of auto, cpu, cuda"):
        TrainSettings(device="abacus")


def test_a_gpus_precision_is_the_gpus_to_say() -> None:
    assert choose_precision(TrainSettings(), gpu_has_bf16=True) == (True, "bf16: this GPU has it")
    assert choose_precision(TrainSettings(), gpu_has_bf16=False) == (False, "fp32: this GPU has no bf16")
    assert choose_precision(TrainSettings(autocast="off"), gpu_has_bf16=True)[0] is False


@needs_none
def test_a_run_that_began_on_a_gpu_goes_on_without_one(base: Path, tmp_path: Path) -> None:
    first = make_steps(base)
    first.step(0, 0, step=0)
    tensors = {**first.state(), "random on cuda": torch.zeros(16, dtype=torch.uint8)}
    identity = {"setting seed": "7"}
    save_checkpoint(tmp_path, Checkpoint(progress=Progress(step=1), tensors=tensors), identity=identity)
    found = load_checkpoint(tmp_path, identity=identity)
    assert found is not None
    assert found.tensors is not None
    wanted = first.step(0, 1, step=1)
    second = make_steps(base)
    second.load_state(found.tensors)
    assert second.step(0, 1, step=1) == wanted


@needs_gpu
def test_training_on_a_gpu_teaches_as_on_the_processor_and_says_where_it_is(base: Path, tmp_path: Path) -> None:
    there = toy.run(base, tmp_path / "gpu", epochs=3, autocast="off")
    here = toy.run(base, tmp_path / "cpu", epochs=3, autocast="off", device="cpu")
    assert there.reasons[0].startswith("on ")
    assert there.reasons[0].endswith("torch sees it")
    assert there.dev_score.value > 80
    assert there.dev_score.value == pytest.approx(here.dev_score.value, abs=5)


@needs_gpu
@pytest.mark.parametrize("adapt", list(METHODS))
def test_every_method_trains_on_a_gpu_and_its_state_goes_on_without_one(adapt: str, base: Path, tmp_path: Path) -> None:
    steps = make_steps(base, adapt=adapt, device="cuda")
    assert steps.step(0, 0, step=0)[0] > 0
    with steps.whole_tagger() as tagger:
        assert tagger.device.type == "cuda"
    save_checkpoint(tmp_path, Checkpoint(progress=Progress(step=1), tensors=steps.state()), identity={})
    found = load_checkpoint(tmp_path, identity={})
    assert found is not None
    assert found.tensors is not None
    for device in ("cpu", "cuda"):
        further = make_steps(base, adapt=adapt, device=device)
        further.load_state(found.tensors)
        assert np.isfinite(further.step(0, 1, step=1)[0])


@needs_gpu
def test_balance_and_contrast_are_computed_on_a_gpu(base: Path) -> None:
    assert make_steps(base, device="cuda", balance=True).step(0, 0, step=0)[0] > 0
    from millis.data.examples import MatchExample

    examples = [MatchExample(text=f"a{i}", positives=(f"b{i}",)) for i in range(4)] + [MatchExample(text=f"b{i}") for i in range(4)]
    contrast = Contrast(examples, sizes=(8, 4))
    vectors = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    here, there = contrast.loss(vectors, contrast.units), contrast.loss(vectors.cuda(), contrast.units)
    assert float(there) == pytest.approx(float(here), abs=1e-4)


@needs_gpu
def test_a_gpu_is_chosen_where_there_is_one() -> None:
    assert choose_device("auto")[0].type == "cuda"
    assert choose_device("cpu")[0].type == "cpu"
