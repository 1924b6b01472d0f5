"""NER through real tokenizers: no label shifts, whatever the text holds."""

from pathlib import Path

import numpy as np
import pytest

from making import LABELS, make_tokenizer
from millis.data.examples import Span, SpanExample
from millis.errors import InvalidValue
from millis.tasks.ner import NerTask
from millis.tasks.task import IGNORED
from millis.tasks.tokenization import Tokenizer

TEXTS = [
    ("maria garcia of northwind wrote", [("maria garcia", "PER"), ("northwind", "ORG")]),
    ("😀😀 Schwarzenegger   met\t彭小军 at Ünbelievable, Inc.", [("Schwarzenegger", "PER"), ("彭小军", "PER"), ("Ünbelievable, Inc.", "ORG")]),
    ("彭小军认为国内银行Northwind的模式", [("彭小军", "PER"), ("Northwind", "ORG")]),
    ("مرحبا maria \u200b\u0000 garcia", [("maria", "PER")]),
    ("e\u0301cole👩‍👩‍👧 northwind", [("northwind", "ORG")]),
    ("  leading and U.K. trailing  ", [("U.K.", "ORG")]),
]  # fmt: skip


@pytest.fixture(params=["small", "minilm"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    if request.param == "small":
        return Tokenizer(make_tokenizer(tmp_path))
    return Tokenizer(request.getfixturevalue("minilm") / "tokenizer.json")


def make_example(text: str, named: list[tuple[str, str]]) -> SpanExample:
    spans = tuple(Span(text.index(piece), text.index(piece) + len(piece), label) for piece, label in named)
    return SpanExample(text=text, spans=spans)


def answer_like_gold(task: NerTask, example: SpanExample) -> list[tuple[int, int, str]]:
    """Decode logits that say exactly what the targets say."""
    windows = task.encode(example.text, example=example)
    logits = []
    for window in windows:
        assert window.targets is not None
        rows = np.zeros((len(window.ids), len(task.labels)), np.float32)
        rows[np.arange(len(window.ids)), np.maximum(window.targets, 0)] = 9.0
        logits.append(rows)
    found = task.decode(example.text, windows, logits)["entities"]
    assert all(example.text[one["start"] : one["end"]] == one["text"] for one in found)
    return [(one["start"], one["end"], one["label"]) for one in found]


@pytest.mark.parametrize(("text", "named"), TEXTS)
@pytest.mark.parametrize("max_tokens", [12, 256])
def test_targets_read_back_are_the_spans_they_came_from(
    tokenizer: Tokenizer, text: str, named: list[tuple[str, str]], max_tokens: int
) -> None:
    task = NerTask(tokenizer, labels=LABELS, max_tokens=max_tokens, overlap=4)
    example = make_example(text, named)
    assert answer_like_gold(task, example) == [(span.start, span.end, span.label) for span in example.spans]


def test_the_naive_recipe_shifts_labels_where_ours_does_not(tokenizer: Tokenizer) -> None:
    text = "unbelievable Schwarzenegger of northwind"
    example = make_example(text, [("Schwarzenegger", "PER"), ("northwind", "ORG")])
    task = NerTask(tokenizer, labels=LABELS)
    (window,) = task.encode(text, example=example)
    assert window.targets is not None
    by_word = ["O", "B-PER", "O", "B-ORG"]
    naive = [LABELS.index(tag) for tag in by_word]  # one label a word, laid over pieces from the first one on
    ours = window.targets.tolist()
    assert ours[: len(naive)] != naive
    assert ours[0] == ours[-1] == IGNORED, "special tokens carry no label"
    assert [label for label in ours if label != IGNORED] == naive, "each word's first piece carries its label"


def test_long_text_is_answered_once_across_overlapping_windows(tokenizer: Tokenizer) -> None:
    text = " ".join(["the order of maria garcia at northwind ,"] * 40)
    spans = []
    at = 0
    while (at := text.find("maria garcia", at)) >= 0:
        spans += [Span(at, at + 12, "PER"), Span(at + 16, at + 25, "ORG")]
        at += 12
    task = NerTask(tokenizer, labels=LABELS, max_tokens=24, overlap=8)
    example = SpanExample(text=text, spans=tuple(spans))
    assert len(task.encode(text)) > 10
    assert all(len(window.ids) <= 24 for window in task.encode(text))
    assert answer_like_gold(task, example) == [(span.start, span.end, span.label) for span in spans]


def test_text_without_pieces_has_no_window_and_no_entity(tokenizer: Tokenizer) -> None:
    task = NerTask(tokenizer, labels=LABELS)
    assert task.encode(" \t ") == ()
    assert task.decode(" ", (), ()) == {"entities": []}


def test_half_a_surrogate_pair_is_refused_with_a_sentence(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidValue, match="surrogate"):
        NerTask(tokenizer, labels=LABELS).encode("\ud800")


def test_spans_inside_a_word_are_counted(tokenizer: Tokenizer) -> None:
    task = NerTask(tokenizer, labels=LABELS)
    assert task.n_widened(make_example("northwind wrote", [("north", "ORG")])) == 1
    assert task.n_widened(make_example("northwind wrote", [("northwind", "ORG")])) == 0


def test_score_counts_exact_entities_by_label(tokenizer: Tokenizer) -> None:
    task = NerTask(tokenizer, labels=LABELS)
    examples = [make_example(text, named) for text, named in TEXTS[:3]]
    answers = [
        {"entities": [{"start": s.start, "end": s.end, "label": s.label} for s in example.spans]} for example in examples
    ]
    assert task.score(examples, answers).value == 100.0
    answers[0]["entities"][0]["end"] -= 1
    answers[1]["entities"].append({"start": 0, "end": 1, "label": "ORG"})
    score = task.score(examples, answers)
    assert score.by_label["PER"]["recall"] == pytest.approx(100 * 3 / 4)
    assert score.by_label["ORG"]["precision"] == pytest.approx(100 * 3 / 4)
    assert score.value == pytest.approx(100 * 2 * 6 / (8 + 7))
    assert score.per_example[0] == (1, 2, 2)
    assert "PER" in score.report


def test_a_window_too_small_for_its_overlap_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidValue, match="leaves no room"):
        NerTask(tokenizer, labels=LABELS, max_tokens=10, overlap=8)
