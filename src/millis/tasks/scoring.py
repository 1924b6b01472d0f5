"""Score answers: labelled spans by exact match, labels of texts, pieces of texts. The one file that imports seqeval.

Border: spans, labels or texts in, Score out. seqeval compares label sequences; a text is cut at every boundary that
either side names, so that the sequences say exactly what the spans say, whatever the tokenizer or the script.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from millis.data.examples import Span
from millis.errors import MissingExtra
from millis.tasks.calibration import area_under_roc, error_of_confidence
from millis.tasks.task import Score
from millis.tasks.units import is_spaced

_MOST_ROWS = 20


def score_spans(expected: Sequence[Sequence[Span]], answered: Sequence[Sequence[Span]]) -> Score:
    """Compute entity-level precision, recall and F1, overall (micro) and by label.

    Raises:
        MissingExtra: seqeval is not installed.
    """
    try:
        from seqeval.metrics import classification_report
    except ModuleNotFoundError as error:
        raise MissingExtra("scoring needs seqeval, which is not installed: pip install 'millis[train]'.") from error
    sequences = [_as_sequences(want, got) for want, got in zip(expected, answered, strict=True)]
    per_example = tuple(
        (len(set(want) & set(got)), len(set(got)), len(set(want))) for want, got in zip(expected, answered, strict=True)
    )
    if not any(answers + wanted for _, answers, wanted in per_example):
        return Score(value=0.0, name="F1", per_example=per_example, report="no entity expected, none answered\n")
    rows = classification_report(
        [want for want, _ in sequences], [got for _, got in sequences], output_dict=True, zero_division=0
    )
    by_label = {
        label: {
            "precision": 100 * float(row["precision"]), "recall": 100 * float(row["recall"]),
            "f1": 100 * float(row["f1-score"]), "support": int(row["support"]),
        }
        for label, row in rows.items()
        if label not in ("macro avg", "weighted avg")
    }  # fmt: skip
    overall = by_label.pop("micro avg")
    return Score(
        value=overall["f1"],
        name="F1",
        by_label=by_label,
        per_example=per_example,
        report=_write_table({**by_label, "all": overall}),
    )


def f1_of_counts(counts: Sequence[tuple[int, int, int]]) -> float:
    """Compute micro F1 in points from (right, answered, expected) per example."""
    right, answered, expected = (sum(column) for column in zip(*counts, strict=True))
    return 200.0 * right / (answered + expected) if answered + expected else 0.0


def score_labels(
    expected: Sequence[Sequence[str]],
    answers: Sequence[Mapping[str, Any]],
    *,
    labels: Sequence[str],
    is_multi: bool = False,
    out_of_scope: str | None = None,
) -> Score:
    """Compute accuracy of single labels, or micro F1 of several; both by label, and how far scores can be believed.

    Args:
        expected: labels of each text.
        answers: as `ClassifyTask.decode` gives them.
        out_of_scope: the label that None in an answer means.
    """
    counts = Counter[tuple[str, str]]()  # (label, "right" | "answered" | "expected")
    per_example: list[tuple[int, int, int]] = []
    for want, answer in zip(expected, answers, strict=True):
        got: list[str] = answer["labels"] if is_multi else [answer["label"] or out_of_scope or ""]
        right = set(got) & set(want)
        counts.update((label, "right") for label in right)
        counts.update((label, "answered") for label in got)
        counts.update((label, "expected") for label in want)
        per_example.append((len(right), len(got), len(want)))
    known = [*labels, *([out_of_scope] if out_of_scope is not None else [])]
    by_label = {label: _rates(*(counts[label, kind] for kind in ("right", "answered", "expected"))) for label in known}
    value = f1_of_counts(per_example)
    macro = sum(row["f1"] for row in by_label.values()) / len(by_label)
    name = "F1" if is_multi else "accuracy"
    lines = [f"{name} {value:.2f} of {len(per_example)} texts, macro F1 {macro:.2f}"]
    lines.append(
        _belief(expected, answers) if is_multi else _confidence(expected, answers, out_of_scope=out_of_scope)
    )
    if out_of_scope is not None:
        lines.append(_scope(expected, answers, out_of_scope=out_of_scope, row=by_label[out_of_scope]))
    report = "\n".join([*lines, "", _write_worst(by_label)])
    return Score(value=value, name=name, by_label=by_label, per_example=tuple(per_example), report=report)


def score_answers(expected: Sequence[Sequence[str]], answered: Sequence[str]) -> Score:
    """Compute F1 of the words that answers share with what was expected, the mean over questions, and exact matches.

    Args:
        expected: right answers of each question, of which the likest counts; none where "" is right.
        answered: "" for no answer.
    Source: Rajpurkar et al. 2016, arXiv:1606.05250, 6.1 (and 2018, arXiv:1806.03822, for no answer): without case,
        punctuation and English articles. Where ours differs: characters count as words in scripts without spaces.
    """
    shared, exact, is_none = [], [], []
    for wanted, answer in zip(expected, answered, strict=True):
        got = _words(answer)
        pairs = [(_words(one), got) for one in wanted or ("",)]
        shared.append(max(_overlap(*pair) for pair in pairs))
        exact.append(any(want == got for want, got in pairs))
        is_none.append(not wanted)
    value = 100 * float(np.mean(shared))
    rows = {"all": np.full(len(shared), True), "no answer": np.array(is_none), "answer": ~np.array(is_none)}
    lines = ["              F1  exact  questions"]
    for name, chosen in rows.items():
        if chosen.any():
            f1, right = (100 * float(np.array(one)[chosen].mean()) for one in (shared, exact))
            lines.append(f"{name:<10}{f1:6.2f} {right:6.2f}  {int(chosen.sum()):9d}")
    per_example = tuple((round(_PARTS * one), _PARTS, _PARTS) for one in shared)
    return Score(value=value, name="F1", per_example=per_example, report="\n".join(lines) + "\n")


def score_rankings(relevant: Sequence[Sequence[bool]], scores: Sequence[Sequence[float]]) -> Score:
    """Compute how often the document ranked first fits, and the mean reciprocal rank of the first that does.

    Where every query has one document, so that nothing can be ranked, the score is the accuracy of yes above a half.

    Args:
        relevant: of each query's documents, whether they fit.
        scores: of the same documents, 0 to 1; of equal ones those that do not fit count as ranked before.
    """
    ranks = [
        1 + sum(score >= best for fits, score in zip(wanted, given, strict=True) if not fits)
        for wanted, given in zip(relevant, scores, strict=True)
        if any(wanted) and not all(wanted)
        for best in [max(score for fits, score in zip(wanted, given, strict=True) if fits)]
    ]
    flat = [pair for pairs in zip(relevant, scores, strict=True) for pair in zip(*pairs, strict=True)]
    is_right = [fits == (score > 0.5) for fits, score in flat]
    accuracy = 100 * float(np.mean(is_right))
    said = f"{len(flat):,} documents, {accuracy:.2f} % told rightly to fit or not\n"
    if not ranks:
        counts = tuple((int(right), 1, 1) for right in is_right)
        return Score(value=accuracy, name="accuracy", per_example=counts, report=said)
    first = 100 * float(np.mean([rank == 1 for rank in ranks]))
    reciprocal = 100 * float(np.mean([1 / rank for rank in ranks]))
    return Score(
        value=first, name="first right", per_example=tuple((int(rank == 1), 1, 1) for rank in ranks),
        report=f"{len(ranks):,} queries: first right {first:.2f} %, mean reciprocal rank {reciprocal:.2f}\n{said}",
    )  # fmt: skip


_PARTS = 1_000_000
"""Of an answer, that can be right one by one: a paired comparison counts whole ones."""

_ARTICLES = frozenset(("a", "an", "the"))
_WORD = re.compile(r"[^\W_]")


def _words(answer: str) -> list[str]:
    """Cut an answer into what is compared: words, or characters where words are not parted."""
    words: list[str] = []
    runs_on = False
    for character in unicodedata.normalize("NFKC", answer).lower():
        if not _WORD.match(character) and unicodedata.category(character)[0] != "M":
            runs_on &= not character.isspace() and character in "'’-."  # it's, e-mail, 3.5 stay one word
            continue
        if runs_on and is_spaced(character):
            words[-1] += character
        else:
            words.append(character)
        runs_on = is_spaced(character)
    return [word for word in words if word not in _ARTICLES]


def _overlap(want: Sequence[str], got: Sequence[str]) -> float:
    """Compute F1 of two bags of words, 0 to 1."""
    if not want or not got:
        return float(not want and not got)
    n_shared = (Counter(want) & Counter(got)).total()
    return 2 * n_shared / (len(want) + len(got))


def _rates(right: int, answered: int, expected: int) -> dict[str, float]:
    precision = 100.0 * right / answered if answered else 0.0
    recall = 100.0 * right / expected if expected else 0.0
    f1 = 200.0 * right / (answered + expected) if answered + expected else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "support": expected}


def _confidence(
    expected: Sequence[Sequence[str]], answers: Sequence[Mapping[str, Any]], *, out_of_scope: str | None
) -> str:
    inside = [
        (answer["scores"][0], want[0]) for want, answer in zip(expected, answers, strict=True)
        if want[0] != out_of_scope
    ]  # fmt: skip
    if not inside:
        return "no text in scope"
    confidence = np.array([best["score"] for best, _ in inside])
    is_right = np.array([best["label"] == want for best, want in inside])
    error = error_of_confidence(confidence, is_right)
    return (
        f"calibration error {100 * error:.1f} %: mean confidence {confidence.mean():.3f}, right {is_right.mean():.3f}"
    )


def _belief(expected: Sequence[Sequence[str]], answers: Sequence[Mapping[str, Any]]) -> str:
    """Compare each score that an answer lists with whether the text has its label."""
    listed = [
        (one["score"], one["label"] in want) for want, answer in zip(expected, answers, strict=True)
        for one in answer["scores"]
    ]  # fmt: skip
    scores, is_right = np.array([score for score, _ in listed]), np.array([fits for _, fits in listed])
    error = error_of_confidence(scores, is_right)
    return (
        f"calibration error {100 * error:.1f} % of {len(listed):,} scores: mean {scores.mean():.3f}, right"
        f" {is_right.mean():.3f}"
    )


def _scope(
    expected: Sequence[Sequence[str]], answers: Sequence[Mapping[str, Any]], *, out_of_scope: str,
    row: Mapping[str, float],
) -> str:  # fmt: skip
    is_outside = np.array([out_of_scope in want for want in expected])
    if not is_outside.any() or is_outside.all() or "out_of_scope" not in answers[0]:
        return f"out of scope ({out_of_scope}): {int(is_outside.sum())} of {len(expected)} texts"
    area = area_under_roc(np.array([answer["out_of_scope"] for answer in answers]), is_outside)
    return (
        f"out of scope ({out_of_scope}): AUROC {100 * area:.2f}, recall {row['recall']:.2f}, precision"
        f" {row['precision']:.2f} of {int(is_outside.sum())} texts"
    )


def _as_sequences(want: Sequence[Span], got: Sequence[Span]) -> tuple[list[str], list[str]]:
    cuts = sorted({edge for span in (*want, *got) for edge in (span.start, span.end)})
    place = {edge: i for i, edge in enumerate(cuts)}
    sequences = []
    for spans in (want, got):
        tags = ["O"] * max(len(cuts) - 1, 1)
        for span in spans:
            inside = range(place[span.start], place[span.end])
            for i in inside:
                tags[i] = f"{'B' if i == inside[0] else 'I'}-{span.label}"
        sequences.append(tags)
    return sequences[0], sequences[1]


def _write_worst(rows: dict[str, dict[str, float]]) -> str:
    """Write the table, or of many labels those with the lowest F1."""
    if len(rows) <= _MOST_ROWS:
        return _write_table(rows)
    worst = sorted(rows, key=lambda label: rows[label]["f1"])[:_MOST_ROWS]
    return f"the {_MOST_ROWS} lowest of {len(rows)} labels\n{_write_table({label: rows[label] for label in worst})}"


def _write_table(rows: dict[str, dict[str, float]]) -> str:
    width = max(5, *(len(label) for label in rows))
    lines = [f"{'label':<{width}}  precision  recall     F1  support"]
    lines += [
        f"{label:<{width}}  {row['precision']:9.2f} {row['recall']:7.2f} {row['f1']:6.2f}  {int(row['support']):7d}"
        for label, row in rows.items()
    ]
    return "\n".join(lines) + "\n"
