"""Static vectors learn what a network answers, and run as they were trained."""

from pathlib import Path

import numpy as np
import pytest

import toy
from millis.backends import BackendSettings
from millis.backends.static import StaticBackend, save_static
from millis.compiling.comparing import run_all
from millis.data.examples import LabelExample
from millis.errors import InvalidBundle, InvalidValue
from millis.models.prediction import predict
from millis.models.taggers import build_tagger, load_tagger
from millis.tasks.classify import ClassifyTask
from millis.tasks.task import Head
from millis.tasks.tokenization import Tokenizer
from millis.training.batches import encode_examples
from millis.training.loop import train
from millis.training.settings import TrainSettings
from millis.training.static import distil_static

pytestmark = pytest.mark.slow


def make_examples(n: int, *, seed: int) -> list[LabelExample]:
    """Label texts by whether more than a fifth of their words are names."""
    return [
        LabelExample(text=one.text, labels=("named" if 5 * len(one.spans) > len(one.text.split()) else "plain",))
        for one in toy.make_examples(n, seed=seed)
    ]


def test_static_vectors_answer_nearly_as_their_teacher(tmp_path: Path) -> None:
    base = toy.write_base(tmp_path / "base")
    tokenizer = Tokenizer(base / "tokenizer.json")
    examples, test = make_examples(1200, seed=1), make_examples(200, seed=2)
    task = ClassifyTask.learn(tokenizer, examples, max_tokens=48)
    trained = train(
        base, task=task, train=examples, dev=test, folder=tmp_path / "run", tokenizer_file=base / "tokenizer.json",
        settings=TrainSettings(epochs=6, learning_rate=1e-3, checkpoint_every_s=1e6),
    )  # fmt: skip
    teacher = load_tagger(trained.best)
    weights = distil_static(
        teacher, head=task.head, windows=encode_examples(task, examples), settings=TrainSettings(epochs=20, batch_size=64), prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
    )  # fmt: skip
    again = distil_static(
        teacher, head=task.head, windows=encode_examples(task, examples), settings=TrainSettings(epochs=20, batch_size=64), prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
    )  # fmt: skip
    assert all(np.array_equal(one, other) for one, other in zip(weights, again, strict=True)), "the same seed, the same"
    save_static(tmp_path / "static", weights)
    backend = StaticBackend()
    backend.load(tmp_path / "static", settings=BackendSettings())
    texts = [example.text for example in test]
    wanted = [answer["label"] for answer in predict(teacher, task=task, texts=texts)]
    got = []
    for text in texts:
        windows = task.encode(text)
        logits = run_all(backend, [window.ids for window in windows], head=task.head)
        got.append(task.decode(text, windows, logits)["label"])
    assert set(wanted) == {"named", "plain"}
    agreed = np.mean([one == other for one, other in zip(wanted, got, strict=True)])
    assert agreed > 0.9
    backend.close()


def test_a_network_that_speaks_of_tokens_is_refused(tmp_path: Path) -> None:
    tagger = build_tagger(toy.write_base(tmp_path), head=Head(("O", "NAME")), seed=1)
    with pytest.raises(InvalidValue, match="this network speaks of tokens"):
        distil_static(tagger, head=Head(("O", "NAME")), windows=[], settings=TrainSettings(), prefix=[2], suffix=[3])


@pytest.mark.parametrize("file", ["table.npy", "pairs.npy", "head.npz"])
def test_a_file_cut_short_is_refused(tmp_path: Path, file: str) -> None:
    from backends.tiny import draw_static

    save_static(tmp_path, draw_static())
    whole = (tmp_path / file).read_bytes()
    for kept in (len(whole) // 2, 3, 0):
        (tmp_path / file).write_bytes(whole[:kept])
        with pytest.raises(InvalidBundle):
            StaticBackend().load(tmp_path, settings=BackendSettings())
