"""Score labelled spans by exact match: the one file that imports seqeval.

Border: spans in, Score out. seqeval compares label sequences; a text is cut at every boundary that either side names,
so that the sequences say exactly what the spans say, whatever the tokenizer or the script.
"""

from collections.abc import Sequence

from millis.data.examples import Span
from millis.errors import MissingExtra
from millis.tasks.task import Score


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


def _write_table(rows: dict[str, dict[str, float]]) -> str:
    width = max(5, *(len(label) for label in rows))
    lines = [f"{'label':<{width}}  precision  recall     F1  support"]
    lines += [
        f"{label:<{width}}  {row['precision']:9.2f} {row['recall']:7.2f} {row['f1']:6.2f}  {int(row['support']):7d}"
        for label, row in rows.items()
    ]
    return "\n".join(lines) + "\n"
