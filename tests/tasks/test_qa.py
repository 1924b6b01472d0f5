"""Question answering: windows, targets, answers and scores, by arrays whose right answer is known."""

from typing import Any

import numpy as np
import pytest

from making import make_tokenizer
from millis.data.examples import AnswerExample, Question
from millis.tasks.qa import QaTask
from millis.tasks.scoring import score_answers
from millis.tasks.tokenization import Tokenizer

CONTEXT = "maria wrote from lisbon about her order, and the eu rejects german call"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def ask(context: str = CONTEXT, answer: str | None = "lisbon", question: str = "where is maria from") -> AnswerExample:
    spans = () if answer is None else ((context.index(answer), context.index(answer) + len(answer)),)
    return AnswerExample(text=Question(question, context), answers=spans)


def sure(task: QaTask, example: AnswerExample, *, height: float = 12.0) -> list[np.ndarray]:
    """Give the logits of a network that knows the targets."""
    logits = []
    for window in task.encode(example.text, example=example):
        rows = np.zeros(task.head.shape(len(window.ids)), np.float32)
        assert window.targets is not None
        rows[(0, 1), window.targets] = height
        logits.append(rows)
    return logits


def answer(task: QaTask, example: AnswerExample, logits: list[np.ndarray], **options: Any) -> dict[str, Any]:
    return task.decode(example.text, task.encode(example.text), logits, options)


def test_a_window_is_question_and_context_and_says_where_the_answer_is(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer)
    example = ask()
    (window,) = task.encode(example.text, example=example)
    asked, context = (tokenizer.encode(text).ids for text in (example.text.question, example.text.context))
    assert window.ids.tolist() == [*tokenizer.prefix, *asked, *tokenizer.between, *context, *tokenizer.suffix]
    first, last = window.targets
    assert window.ids[first : last + 1].tolist() == tokenizer.encode("lisbon").ids
    assert task.head.shape(len(window.ids)) == (2, len(window.ids))


def test_what_the_network_is_sure_of_is_the_answer(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer)
    got = answer(task, ask(), sure(task, ask()))
    assert (got["answer"], got["start"], got["end"]) == ("lisbon", 17, 23)
    assert got["score"] > 0.9
    assert got["answers"][0] == {key: got[key] for key in ("answer", "start", "end", "score")}
    assert len(answer(task, ask(), sure(task, ask()), top_k=5)["answers"]) == 5


def test_scores_are_probabilities_over_all_stretches(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer, longest=3)
    example = ask("one two three", "two")
    (window,) = task.encode(example.text)
    logits = np.random.default_rng(3).normal(0, 2, (2, len(window.ids))).astype(np.float32)
    got = answer(task, example, [logits], top_k=100)
    first = len(window.ids) - 4
    odds = {
        (i, j): float(np.exp(logits[0, first + i] + logits[1, first + j])) for i in range(3) for j in range(i, 3)
    }
    total = sum(odds.values()) + float(np.exp(logits[0, 0] + logits[1, 0]))
    assert len(got["answers"]) == 6
    by_span = {(one["start"], one["end"]): one["score"] for one in got["answers"]}
    starts, ends = (0, 4, 8), (3, 7, 13)
    for (i, j), value in odds.items():
        assert by_span[starts[i], ends[j]] == pytest.approx(value / total, abs=2e-6)


def test_no_answer_is_said_only_by_a_task_that_learnt_it(tokenizer: Tokenizer) -> None:
    examples = [ask(), ask(answer=None)]
    task = QaTask.learn(tokenizer, examples)
    assert task.may_have_none
    got = answer(task, examples[1], sure(task, examples[1]))
    assert (got["answer"], got["start"], got["end"]) == (None, None, None)
    assert got["score"] > 0.9
    always = QaTask.learn(tokenizer, examples[:1])
    assert not always.may_have_none
    assert answer(always, examples[1], sure(task, examples[1]))["answer"] is not None


def test_a_long_context_is_read_in_windows_and_the_answer_found_in_any(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer, max_tokens=24, overlap=4)
    context = " ".join(["one two three"] * 20 + ["lisbon"] + ["at her order"] * 20)
    example = ask(context)
    windows = task.encode(example.text, example=example)
    assert len(windows) > 8
    assert max(len(window.ids) for window in windows) <= 24
    told = [window for window in windows if window.targets.any()]
    assert told, "the answer is whole in some window"
    assert len(told) < len(windows), "and the others say that it is not in them"
    got = answer(task, example, sure(task, example))
    assert (got["answer"], got["start"]) == ("lisbon", context.index("lisbon"))


def test_an_answer_takes_in_whole_words_and_no_blanks(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer)
    context = "her unbelievable order"
    example = ask(context, "order")
    (window,) = task.encode(example.text)
    pieces = tokenizer.encode(context)
    assert len(pieces.ids) == 5, "unbelievable is three"
    logits = np.zeros((2, len(window.ids)), np.float32)
    logits[(0, 1), len(window.ids) - len(tokenizer.suffix) - 3] = 12
    assert answer(task, example, [logits])["answer"] == "unbelievable"


def test_as_many_answers_are_listed_as_were_asked_for_where_words_have_many_pieces(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer)
    example = ask("unbelievable schwarzenegger order", "order")
    (window,) = task.encode(example.text)
    logits = np.zeros((2, len(window.ids)), np.float32)
    logits[:, window.places.first : window.places.first + 3] = 9  # all stretches within the first word come first
    for top_k in (1, 2, 3, 6, 50):
        found = answer(task, example, [logits], top_k=top_k)["answers"]
        assert len({(one["start"], one["end"]) for one in found}) == len(found) == min(top_k, 6), "of three words, six stretches"
        assert found[0]["answer"] == "unbelievable"
        assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)


def test_chinese_answers_are_cut_by_character(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer)
    example = ask("张伟昨天从上海写了信", "上海", "从哪里")
    got = answer(task, example, sure(task, example))
    assert (got["answer"], got["start"], got["end"]) == ("上海", 5, 7)


def test_a_question_longer_than_a_window_leaves_room_for_the_context(tokenizer: Tokenizer) -> None:
    task = QaTask(tokenizer, max_tokens=24, overlap=4)
    windows = task.encode(Question("one " * 500, CONTEXT))
    assert max(len(window.ids) for window in windows) <= 24
    assert len(windows) < 4
    assert task.encode(Question("who", "\x00")) == ()
    assert task.decode(Question("who", "\x00"), (), [])["answer"] is None


def test_the_task_comes_back_from_its_settings(tokenizer: Tokenizer) -> None:
    task = QaTask.learn(tokenizer, [ask(answer=CONTEXT)], max_tokens=64, overlap=8)
    again = QaTask(tokenizer, labels=task.labels, **task.settings)
    assert again.settings == task.settings
    assert again.longest == task.longest > 8
    assert isinstance(again.example, Question)


def test_f1_shares_words_and_in_chinese_characters() -> None:
    score = score_answers([("the Lisbon office",), ("上海市", "上海"), (), ("x",)], ["Lisbon", "上海。", "", "lisbon"])
    assert score.value == pytest.approx(100 * (2 / 3 + 1 + 1 + 0) / 4)
    assert "no answer" in score.report
    assert [one[0] / one[1] for one in score.per_example] == pytest.approx([2 / 3, 1, 1, 0], abs=1e-5)
    assert score_answers([()], ["lisbon"]).value == 0
