"""Classification: targets, answers, calibration and scores, by arrays whose right answer is known."""

import math
from typing import Any

import numpy as np
import pytest

from making import make_tokenizer
from millis.data.examples import LabelExample
from millis.errors import InvalidData, InvalidValue
from millis.tasks.calibration import area_under_roc, calibration_error
from millis.tasks.classify import ClassifyTask
from millis.tasks.task import Task
from millis.tasks.tokenization import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def example(text: str, *labels: str) -> LabelExample:
    return LabelExample(text=text, labels=labels)


EXAMPLES = [example("one", "b"), example("two", "a"), example("three", "none")]


def answer(task: Task, logits: list[list[float]], **options: Any) -> dict[str, Any]:
    windows = task.encode("one two")
    return task.decode("one two", windows, [np.array(logits, np.float32)], options)


def test_a_single_label_is_the_best_output(tokenizer: Tokenizer) -> None:
    task = ClassifyTask.learn(tokenizer, EXAMPLES)
    assert task.labels == ("a", "b", "none")
    assert task.head.shape(9) == (1, 3)
    assert [window.targets.tolist() for window in task.encode("x", example=EXAMPLES[0])] == [[1]]
    got = answer(task, [[0.0, math.log(3), 0.0]])
    assert got["label"] == "b"
    assert got["score"] == pytest.approx(0.6, abs=1e-6)
    assert [one["label"] for one in got["scores"]] == ["b", "a", "none"]
    assert sum(one["score"] for one in got["scores"]) == pytest.approx(1, abs=1e-5)


def test_the_client_chooses_the_form(tokenizer: Tokenizer) -> None:
    task = ClassifyTask.learn(tokenizer, EXAMPLES)
    logits = [[0.0, math.log(3), 0.0]]
    assert len(answer(task, logits, top_k=1)["scores"]) == 1
    assert answer(task, logits, output="labels") == {"label": "b"}
    said = answer(task, logits, output="{label} at {score}: {text} {0.__class__}")
    assert said == {"text": "b at 0.600: one two {0.__class__}"}


def test_several_labels_are_as_many_questions(tokenizer: Tokenizer) -> None:
    task = ClassifyTask.learn(tokenizer, [example("one", "a", "b"), example("two"), example("x", "c")], multi_label=True)
    assert task.head.shape(9) == (3, 2)
    assert task.encode("x", example=example("x", "a", "c"))[0].targets.tolist() == [1, 0, 1]
    got = answer(task, [[0, 2], [0, -2], [0, 1]])
    assert got["labels"] == ["a", "c"]
    assert got["scores"][0]["score"] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-6)
    assert answer(task, [[0, -2], [0, -2], [0, -1]], output="labels") == {"labels": []}


def test_a_template_says_the_least_sure_of_all_labels_however_few_are_listed(tokenizer: Tokenizer) -> None:
    task = ClassifyTask(tokenizer, labels=("a", "b", "{text}"), is_multi=True)
    logits = [[0.0, math.log(9)], [0.0, -2.0], [0.0, math.log(3)]]
    for top_k in (1, 3):
        assert answer(task, logits, output="{label}: {score}", top_k=top_k) == {"text": "a, {text}: 0.750"}
    assert answer(task, [[0.0, -1.0]] * 3, output="<{label}> {score}") == {"text": "<> 0.000"}


def test_a_long_text_is_read_in_windows_that_cover_it(tokenizer: Tokenizer) -> None:
    task = ClassifyTask(tokenizer, labels=("a", "b"), max_tokens=12, overlap=3)
    text = " ".join(["one"] * 30)
    windows = task.encode(text)
    assert [len(window.ids) for window in windows] == [12, 12, 12, 9 + 2]
    assert len(task.encode("one " * 10)) == 1
    assert len(task.encode("\x00")) == 1, "no text, and still an answer"
    logits = [np.array([[1.0, 0.0]], np.float32)] * 3 + [np.array([[-99.0, 0.0]], np.float32)]
    got = task.decode(text, windows, logits)
    assert got["label"] == "b"
    mean = (3 * 10 * 1.0 + 9 * -99.0) / 39
    assert got["score"] == pytest.approx(1 / (1 + math.exp(mean)), abs=1e-5)


def test_out_of_scope_is_told_by_its_output_and_by_doubt(tokenizer: Tokenizer) -> None:
    task = ClassifyTask.learn(tokenizer, EXAMPLES, out_of_scope="none")
    assert task.labels == ("a", "b")
    assert task.head.outputs == ("a", "b", "none")
    assert task.encode("x", example=EXAMPLES[2])[0].targets.tolist() == [2]
    sure, unsure, told = ([[5.0, 0.0, -5.0]], [[0.2, 0.0, -5.0]], [[3.0, -2.0, 9.0]])
    given = [sure] * 39 + [told] + [unsure] * 20 + [told] * 20 + [sure]
    examples = [example("x", "a")] * 40 + [example("x", "none")] * 41
    found = task.calibrate(examples, [(task.encode("x"), [np.array(one, np.float32)]) for one in given])
    assert "of 81 texts 79 are told rightly" in found.said
    again = ClassifyTask(tokenizer, labels=found.task.labels, **found.task.settings)
    scaled = [[np.array(one, np.float32) / found.temperature] for one in (sure, unsure, told)]
    inside, *outside = (again.decode("x", again.encode("x"), one) for one in scaled)
    assert inside["label"] == "a"
    assert inside["out_of_scope"] < 0.1
    assert [one["label"] for one in inside["scores"]] == ["a", "b"]
    for one in outside:
        assert one["label"] is None
        assert one["out_of_scope"] > 0.9
        assert one["score"] == one["out_of_scope"]
    score = again.score([example("x", "a"), example("x", "none"), example("x", "none")], [inside, *outside])
    assert score.value == 100
    assert "AUROC 100.00" in score.report


def test_out_of_scope_is_the_same_for_all_logits_of_one_softmax(tokenizer: Tokenizer) -> None:
    scope = {"label": "none", "weights": (0.5, -0.2, -1.0, 0.3)}
    task = ClassifyTask(tokenizer, labels=("a", "b"), out_of_scope=scope)
    one = answer(task, [[2.0, 0.0, 1.0]])
    for moved in ([[12.0, 10.0, 11.0]], [[-28.0, -30.0, -29.0]]):
        assert answer(task, moved)["out_of_scope"] == pytest.approx(one["out_of_scope"], abs=1e-5)


def test_out_of_scope_is_answered_before_it_is_calibrated_too(tokenizer: Tokenizer) -> None:
    task = ClassifyTask.learn(tokenizer, EXAMPLES, out_of_scope="none")
    outside, inside = answer(task, [[0.0, 0.0, math.log(18)]]), answer(task, [[math.log(8), 0.0, 0.0]])
    assert (outside["label"], outside["out_of_scope"]) == (None, pytest.approx(0.9, abs=1e-6))
    assert (inside["label"], inside["out_of_scope"]) == ("a", pytest.approx(0.1, abs=1e-6))
    score = task.score([example("x", "none"), example("x", "a")], [outside, inside])
    assert score.value == 100, "the best epoch is chosen by it"


def test_temperature_makes_scores_mean_what_they_say(tokenizer: Tokenizer) -> None:
    task = ClassifyTask(tokenizer, labels=("a", "b", "c"))
    chance = np.random.default_rng(1)
    honest = chance.normal(0, 2, (4000, 3))
    odds = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    targets = np.array([chance.choice(3, p=row) for row in odds])
    boastful = (3 * honest).astype(np.float32)
    examples = [example("x", "abc"[target]) for target in targets]
    found = task.calibrate(examples, [(task.encode("x"), [row[None]]) for row in boastful])
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert calibration_error(boastful.astype(np.float64), targets) > 0.1
    assert calibration_error(boastful / found.temperature, targets) < 0.03


def test_a_dev_without_a_mistake_makes_nothing_certain(tokenizer: Tokenizer) -> None:
    task = ClassifyTask(tokenizer, labels=("a", "b", "c"))
    examples = [example("x", "abc"[i % 3]) for i in range(99)]
    logits = [np.eye(3, dtype=np.float32)[[i % 3]] for i in range(99)]
    found = task.calibrate(examples, [(task.encode("x"), [row]) for row in logits])
    sure = answer(task, (logits[0] / found.temperature).tolist())["score"]
    assert sure == pytest.approx(1 - 2 / 3 / 100, abs=1e-4), "right 99 times, and once nobody knows"


def test_scores_of_labels(tokenizer: Tokenizer) -> None:
    task = ClassifyTask(tokenizer, labels=("a", "b"))
    examples = [example("x", label) for label in "aaab"]
    answers = [answer(task, [[1, 0]]), answer(task, [[1, 0]]), answer(task, [[0, 1]]), answer(task, [[0, 1]])]
    score = task.score(examples, answers)
    assert (score.name, score.value) == ("accuracy", 75)
    assert score.by_label["a"] == {"precision": 100.0, "recall": 200 / 3, "f1": 80.0, "support": 3}
    assert score.per_example == ((1, 1, 1), (1, 1, 1), (0, 1, 1), (1, 1, 1))
    multi = ClassifyTask(tokenizer, labels=("a", "b"), is_multi=True)
    said = [answer(multi, [[0, 1], [0, 1]]), answer(multi, [[0, 1], [1, 0]])]
    score = multi.score([example("x", "a"), example("x", "a", "b")], said)
    assert (score.name, score.value) == ("F1", pytest.approx(100 * 2 * 2 / (3 + 3)))


def test_scores_of_several_labels_are_compared_with_how_often_each_is_right(tokenizer: Tokenizer) -> None:
    task = ClassifyTask(tokenizer, labels=("a", "b"), is_multi=True)
    said = [answer(task, [[0, math.log(4)], [math.log(4), 0]])] * 5  # 0.8 of a, 0.2 of b
    honest = [example("x", "a")] * 3 + [example("x", "a", "b"), example("x")]
    assert "calibration error 0.0 % of 10 scores: mean 0.500, right 0.500" in task.score(honest, said).report
    boastful = [example("x", "b"), *[example("x")] * 4]  # no a where four were promised
    assert "calibration error 40.0 % of 10 scores: mean 0.500, right 0.100" in task.score(boastful, said).report


def test_area_under_roc_counts_pairs() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    assert area_under_roc(scores, np.array([False, False, True, True])) == pytest.approx((1 + 1 + 1 + 0.5) / 4)


@pytest.mark.parametrize(
    ("examples", "asked", "error", "said"),
    [
        ([example("x", "a")], {}, InvalidData, "train has 1 label (a): to tell texts apart it needs at least two"),
        (EXAMPLES, {"out_of_scope": "oos"}, InvalidData, "no text of train has the label 'oos'"),
        (EXAMPLES, {"out_of_scope": "a", "multi_label": True}, InvalidValue, "a text with no label is none of them"),
    ],
)
def test_what_cannot_be_learnt_is_a_sentence(
    tokenizer: Tokenizer, examples: list[LabelExample], asked: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        ClassifyTask.learn(tokenizer, examples, **asked)
    assert said in str(caught.value)


def test_dev_without_a_text_out_of_scope_is_a_sentence(tokenizer: Tokenizer) -> None:
    task = ClassifyTask.learn(tokenizer, EXAMPLES, out_of_scope="none")
    outputs = [(task.encode("x"), [np.array([[1.0, 0.0, 0.0]], np.float32)])]
    with pytest.raises(InvalidData, match="0 of 1 texts of dev have the label 'none'"):
        task.calibrate([example("x", "a")], outputs)
