"""What every task must do, as functions that raise AssertionError; authors of plugins run them too.

Usage:
    for check in CHECKS:
        check(task, tokenizer, examples)   # examples: two or more that the task can be learnt from, labelled

Border: asks through the members of a task only, with logits of a network that knows nothing; needs no test library.
Limits: whether answers are right is the task's own tests' to say, and what its score means.
"""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.data.examples import Question, Ranking, options_of
from millis.tasks.task import IGNORED, Task, Window
from millis.tasks.tokenization import Tokenizer

_LETTERS = (
    "", " ", "\x00", "\u200b", "👩‍🚀🏳️‍🌈", "שלום עולם", "ＡＢＣ１２３", "e\u0301",
    "我的订单在哪里？", "Where is 我的 order? " * 40, "订" * 400,
)  # fmt: skip
"""Blank, without pieces, of several code points a character, right to left, wide, composed, Chinese, mixed, long."""


def check_windows_fit_the_network(task: Task, tokenizer: Tokenizer, examples: Sequence[Any]) -> None:
    """Windows are int64 (T,) of at most max_tokens known pieces, whatever the text; a question has one at least."""
    for asked in _list_asked(task):
        for window in task.encode(asked):
            assert window.ids.dtype == np.int64, f"ids are {window.ids.dtype}, not int64"
            assert window.ids.ndim == 1, f"ids have {window.ids.ndim} axes"
            assert 0 < len(window.ids) <= task.max_tokens, f"a window of {len(window.ids)} of {task.max_tokens} tokens"
            assert 0 <= window.ids.min() <= window.ids.max() < task.n_pieces, "an id that the network does not have"
            assert window.targets is None, "a text without labels has targets"
    for shown in (task.example, *task.shown):
        assert task.encode(shown), f"{shown!r}, which is to be shown, has no window"


def check_labelled_windows_have_targets(task: Task, tokenizer: Tokenizer, examples: Sequence[Any]) -> None:
    """With an example each window carries int64 targets of the head, some that count; its ids stay as they are."""
    n_counting = 0
    for example in examples:
        bare = task.encode(example.text, options=options_of(example))
        labelled = task.encode(example.text, example=example, options=options_of(example))
        assert _ids(labelled) == _ids(bare), "labels change the ids"
        for window in labelled:
            if window.targets is None:  # it is learnt from otherwise, by contrast
                assert task.head.pooled is not None, "a labelled window has no targets"
                continue
            rows, _ = task.head.shape(len(window.ids))
            assert window.targets.dtype == np.int64, f"targets are {window.targets.dtype}, not int64"
            assert window.targets.shape == (rows,), f"{window.targets.shape} targets for {rows} rows"
            n_counting += int((window.targets != IGNORED).sum())
    assert n_counting or task.head.pooled is not None, "no target of these examples counts"


def check_answers_are_json_and_the_same_again(task: Task, tokenizer: Tokenizer, examples: Sequence[Any]) -> None:
    """Whatever is asked has an answer that JSON can hold, the same each time; neither text nor logits are changed."""
    for asked in _list_asked(task):
        windows = task.encode(asked)
        logits = _draw(task, windows)
        kept = [one.copy() for one in logits]
        answer = task.decode(asked, windows, logits)
        assert isinstance(answer, dict), f"an answer is a {type(answer).__name__}, not an object"
        assert json.loads(json.dumps(answer, allow_nan=False)) == msgspec.json.decode(msgspec.json.encode(answer))
        assert task.decode(asked, windows, logits) == answer, "the same logits have another answer"
        assert all(np.array_equal(*pair) for pair in zip(logits, kept, strict=True)), "reading changed the logits"


def check_places_are_where_they_say(task: Task, tokenizer: Tokenizer, examples: Sequence[Any]) -> None:
    """Wherever an answer says start and end, the text it names stands there, in code points."""
    for asked in _list_asked(task):
        windows = task.encode(asked)
        text = asked.context if isinstance(asked, Question) else asked
        for one in _list_objects(task.decode(asked, windows, _draw(task, windows))):
            if one.get("start") is not None:
                named = one.get("text", one.get("answer"))
                assert text[one["start"] : one["end"]] == named, f"{one['start']} to {one['end']} is not what it names"
                assert named.strip() == named != "", "a place begins or ends in blanks"


def check_usual_options_are_those_of_a_bare_request(task: Task, tokenizer: Tokenizer, examples: Sequence[Any]) -> None:
    """To choose what is usual is to choose nothing."""
    usual = {name: value for name, (_, value) in task.options.items()}
    for asked in _list_asked(task):
        bare, chosen = task.encode(asked), task.encode(asked, options=usual)
        assert _ids(bare) == _ids(chosen), "usual options change the ids"
        logits = _draw(task, bare)
        assert task.decode(asked, bare, logits) == task.decode(asked, chosen, logits, usual), "they change the answer"


def check_settings_make_the_task_again(task: Task, tokenizer: Tokenizer, examples: Sequence[Any]) -> None:
    """A task that was written as JSON and read again cuts and answers alike, and so does one with its own tokenizer."""
    settings = json.loads(json.dumps(task.settings, allow_nan=False))
    make: Any = type(task)
    for again in (make(tokenizer, labels=task.labels, **settings), task.with_tokenizer(tokenizer)):
        assert again.labels == task.labels, "labels differ"
        assert again.head == task.head, "heads differ"
        assert again.settings == task.settings, "settings differ"
        assert again.example == task.example, "examples differ"
        for asked in _list_asked(task):
            windows, others = task.encode(asked), again.encode(asked)
            assert _ids(windows) == _ids(others), "windows differ"
            logits = _draw(task, windows)
            assert task.decode(asked, windows, logits) == again.decode(asked, others, logits), "answers differ"


def check_scores_are_points(task: Task, tokenizer: Tokenizer, examples: Sequence[Any]) -> None:
    """A score has a name and 0 to 100 points, the same again, and what it says example by example is of each."""
    answers = []
    for example in examples:
        windows = task.encode(example.text, options=options_of(example))
        answers.append(task.decode(example.text, windows, _draw(task, windows), options_of(example)))
    score = task.score(examples, answers)
    assert score.name, "a score has no name"
    assert 0 <= score.value <= 100, f"a score of {score.value} points"
    assert task.score(examples, answers) == score, "the same answers have another score"
    assert len(score.per_example) <= len(examples), f"{len(score.per_example)} counts for {len(examples)} examples"
    assert score.per_example, "nothing is said by example, so no drop can be judged"


CHECKS = (
    check_windows_fit_the_network,
    check_labelled_windows_have_targets,
    check_answers_are_json_and_the_same_again,
    check_places_are_where_they_say,
    check_usual_options_are_those_of_a_bare_request,
    check_settings_make_the_task_again,
    check_scores_are_points,
)


def _list_asked(task: Task) -> list[Any]:
    """List what a client may ask: the task's own, in both languages, and every strange text in each place of it."""
    asked = [task.example, *task.shown]
    if task.asks is Question:
        asked += [Question("Who? 谁？", text) for text in _LETTERS]
        asked += [Question(text, "上午九点 opens.") for text in _LETTERS]
    elif task.asks is Ranking:
        asked += [Ranking("谁？", _LETTERS), *(Ranking(text, ("好", "x")) for text in _LETTERS)]
    else:
        asked += _LETTERS
    return asked


def _ids(windows: Sequence[Window]) -> list[list[int]]:
    """List the ids of each window."""
    return [window.ids.tolist() for window in windows]


def _draw(task: Task, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
    """Draw the logits (R, C) of each window."""
    generator = np.random.default_rng(7)
    return [generator.normal(0, 3, task.head.shape(len(window.ids))).astype(np.float32) for window in windows]


def _list_objects(value: Any) -> list[dict[str, Any]]:
    """List every object in a JSON value."""
    if isinstance(value, dict):
        return [value, *(one for below in value.values() for one in _list_objects(below))]
    return [one for below in value for one in _list_objects(below)] if isinstance(value, list | tuple) else []
