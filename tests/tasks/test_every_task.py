"""Every registered task keeps to what the rooms around it rely on, in English, in Chinese and in strange texts."""

from collections.abc import Callable
from typing import Any

import pytest

from making import make_tokenizer
from millis.data.examples import (
    AnswerExample,
    LabelExample,
    MatchExample,
    Question,
    RankExample,
    Ranking,
    Span,
    SpanExample,
)
from millis.tasks import Task, tasks
from millis.tasks.conformance import CHECKS, check_places_are_where_they_say, check_settings_make_the_task_again
from millis.tasks.ner import NerTask, ner_labels
from millis.tasks.tokenization import Tokenizer

CHINESE = "张伟在上海的联合电子公司工作"
LABELLED = [LabelExample(text="maria wrote", labels=("order",)), LabelExample(text="退款要多久？", labels=("refund",)), LabelExample(text="hello", labels=("none",))]
EXAMPLES: dict[str, list[Any]] = {
    "ner": [SpanExample(text="maria garcia wrote", spans=(Span(0, 12, "PER"),)), SpanExample(text=CHINESE, spans=(Span(0, 2, "PER"), Span(3, 5, "LOC")))],
    "classify": LABELLED,
    "qa": [
        AnswerExample(text=Question("who wrote", "maria garcia wrote"), answers=((0, 12),)),
        AnswerExample(text=Question("谁在上海？", CHINESE), answers=((0, 2),)),
        AnswerExample(text=Question("why", "hello world")),
    ],
    "rerank": [
        RankExample(text=Ranking("who wrote", ("maria wrote", "hello")), is_relevant=(True, False)),
        RankExample(text=Ranking("退款", ("退款需要五天。", "你好")), is_relevant=(True, False)),
    ],
    "embedding": [
        MatchExample(text="refund", positives=("refund takes five days",), group="a"), MatchExample(text="refund takes five days", is_passage=True, group="a"),
        MatchExample(text="退款", positives=("退款需要五天",), group="b"), MatchExample(text="退款需要五天", is_passage=True, group="b"),
    ],
}  # fmt: skip
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "classify": {"single": {}, "several": {"multi_label": True}, "out of scope": {"out_of_scope": "none"}},
    "embedding": {"plain": {"width": 8}, "cut": {"width": 8, "dimensions": [4], "pooling": "cls", "query_prefix": "query: "}},
}
CASES = [(task, case, given) for task in tasks for case, given in SETTINGS.get(task, {"": {}}).items()]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize(("name", "case", "given"), CASES, ids=[" ".join(filter(None, (task, case))) for task, case, _ in CASES])
def test_a_registered_task_conforms(
    name: str, case: str, given: dict[str, Any], check: Callable[..., None], tokenizer: Tokenizer
) -> None:
    assert name in EXAMPLES, f"task {name} has no examples to be tested with: write them here"
    kind: Any = tasks[name]
    task: Task = kind.learn(tokenizer, EXAMPLES[name], max_tokens=32, overlap=8, **given)
    check(task, tokenizer, EXAMPLES[name])


class Shifted(NerTask):
    """Says of each entity that it ends a character later."""

    def decode(self, *asked: Any) -> dict[str, Any]:
        said = super().decode(*asked)
        return {"entities": [{**one, "end": one["end"] + 1} for one in said["entities"]]}


class Forgetful(NerTask):
    """Does not say how far its windows overlap."""

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings.items() if name != "overlap"}


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [(Shifted, check_places_are_where_they_say, "is not what it names"), (Forgetful, check_settings_make_the_task_again, "differ")],
)
def test_a_task_that_breaks_its_word_is_caught(kind: type[NerTask], check: Callable[..., None], said: str, tokenizer: Tokenizer) -> None:
    task = kind(tokenizer, labels=ner_labels(["PER", "LOC"]), max_tokens=64, overlap=9)
    with pytest.raises(AssertionError, match=said):
        check(task, tokenizer, EXAMPLES["ner"])
