"""What the data holds, and what is wrong with it before anything is trained on it.

Border: counts and compares; changes nothing.
Limits: two texts are the same only when they are equal character by character.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from millis.data.examples import Example, texts_of
from millis.data.lengths import LengthHistogram
from millis.data.splits import Splits
from millis.data.suspects import fold, kept_apart, may_stand_in_two_parts
from millis.errors import InvalidData

_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What a check found.

    Args:
        examples: how many, by part.
        labels: label -> part -> how often, every part named.
        characters: how long the texts are, by part, in characters.
        warnings: sentences to show; training can go on.
    """

    examples: dict[str, int]
    labels: dict[str, dict[str, int]]
    characters: dict[str, LengthHistogram]
    warnings: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Write the inventory, the lengths of train and the warnings, to print."""
        width = max(8, *(len(label) for label in self.labels))
        parts = list(self.examples)
        table = [
            f"{'label':{width}}" + "".join(f"{part:>9}" for part in parts),
            *(
                f"{label:{width}}" + "".join(f"{counts[part]:>9}" for part in parts)
                for label, counts in sorted(self.labels.items())
            ),
            f"{'examples':{width}}" + "".join(f"{self.examples[part]:>9}" for part in parts),
        ]
        lengths = self.characters["train"]
        rows = lengths.rows()
        most = max(count for _, _, count in rows)
        histogram = [
            f"characters in train: median {lengths.percentile(50)}, p99 {lengths.percentile(99)}, "
            f"longest {lengths.longest}",
            *(
                f"{low:>6} - {high:<6}{count:>7} {'#' * round(_BAR_WIDTH * count / most)}".rstrip()
                for low, high, count in rows
            ),
        ]
        return (*table, *histogram, *(f"warning: {warning}" for warning in self.warnings))


def check(splits: Splits) -> DataReport:
    """Count labels and lengths, and compare the parts.

    Raises:
        InvalidData: train has no label, or dev or test has a label that train never saw; the message names the
            label, and the first example with it as file:line.
    """
    report = take_inventory(splits.parts())
    _check_labels(splits, known={label for example in splits.train for label in example.labels})
    return replace(
        report, warnings=(*_find_leaks(splits), *_find_twins(report.labels), *_find_conflicts(splits))
    )


def take_inventory(parts: Mapping[str, Sequence[Example]]) -> DataReport:
    """Count labels and lengths, and judge nothing.

    Args:
        parts: "train", and those others that there are.
    Raises:
        InvalidData: train has no label.
    """
    counts = {
        name: Counter(label for example in part for label in example.labels)
        for name, part in parts.items()
    }
    if not counts["train"]:
        source = next((example.source for example in parts["train"] if example.source), "train")
        raise InvalidData(
            f"{source}: train has {len(parts['train'])} examples and no label in any: give labelled examples."
        )
    return DataReport(
        examples={name: len(part) for name, part in parts.items()},
        labels={
            label: {name: counts[name][label] for name in parts}
            for label in dict.fromkeys(label for part in counts.values() for label in part)
        },
        characters={
            name: LengthHistogram.from_lengths(sum(map(len, texts_of(example.text))) for example in part)
            for name, part in parts.items()
        },
    )


def _check_labels(splits: Splits, *, known: set[str]) -> None:
    unseen: dict[str, str] = {}
    for name, part in (("dev", splits.dev), ("test", splits.test)):
        for example in part:
            for label in example.labels:
                if label not in known:
                    reason = f"{name} has the label {label!r}, which train never saw"
                    unseen.setdefault(label, f"{example.source or name}: {reason}")
    if unseen:
        raise InvalidData(
            "\n".join(unseen.values())
            + f"\ntrain has {', '.join(sorted(known))}: correct the labels, or add examples of them to train."
        )


def _find_leaks(splits: Splits) -> tuple[str, ...]:
    learnt = {kept_apart(example) for example in splits.train}
    warnings = []
    for name, part in (("dev", splits.dev), ("test", splits.test)):
        n = sum(kept_apart(example) in learnt and not may_stand_in_two_parts(example) for example in part)
        if n:
            warnings.append(
                f"{n} of {len(part)} {name} examples also stand in train (the same text): the {name} score "
                "flatters the model; remove them from one side."
            )
    return tuple(warnings)


def _find_twins(labels: Iterable[str]) -> tuple[str, ...]:
    """Name labels that are different only in case, blanks or width."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(fold(label), []).append(label)
    return tuple(
        f"{' and '.join(repr(label) for label in sorted(same))} differ only in case, blanks or width and are different"
        " labels: write them alike if they are one."
        for same in alike.values()
        if len(same) > 1
    )


def _find_conflicts(splits: Splits) -> tuple[str, ...]:
    """Count the texts of train that stand there with different labels."""
    said: dict[str, set[str]] = {}
    for example in splits.train:
        said.setdefault(example.text, set()).add(repr(example.record()))
    n = sum(len(ways) > 1 for ways in said.values())
    return (f"{n} texts of train stand there more than once, labelled differently: correct them.",) if n else ()
