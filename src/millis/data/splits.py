"""Train, dev and test, carved from train where the user gave none.

Border: moves whole examples; looks at their texts, labels and groups only.
"""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from millis.data.examples import Example
from millis.errors import InvalidData

SHARE = 0.1
"""How much of train a carved part takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The three parts of the data.

    Args:
        train: to learn from.
        dev: to stop early and to choose by.
        test: to judge by, once.
        notes: what was carved, and why.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()

    def parts(self) -> dict[str, tuple[Example, ...]]:
        """Give the parts by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


def make_splits(
    train: Sequence[Example],
    *,
    dev: Sequence[Example] | None = None,
    test: Sequence[Example] | None = None,
    seed: int,
) -> Splits:
    """Give three parts; carve a tenth of train for each that is missing.

    A text that occurs more than once stays on one side, as texts that fit one another do; one that stands in a part
    that was given stays in train, and so does the last text of each label. Texts with labels and texts without are
    carved alike.

    Args:
        train: all there is to learn from.
        dev: its examples, or None to carve them.
        test: its examples, or None to carve them.
        seed: decides what is carved, together with the order of train.
    Raises:
        InvalidData: a part is given empty, or train is too small to carve from.
    """
    given = {"train": train, "dev": dev, "test": test}
    for name, part in given.items():
        if part is not None and not part:
            raise InvalidData(f"{name} has no examples: give at least one, or no {name} to have it carved.")
    given_texts = {example.text for part in (dev, test) for example in part or ()}
    fixed = {example.group for example in train if example.text in given_texts}
    rest = tuple(train)
    carved: dict[str, tuple[Example, ...]] = {}
    notes = []
    for name in ("test", "dev"):
        if given[name] is None:
            n = max(1, round(SHARE * len(train)))
            generator = random.Random(f"{seed} {name}")  # noqa: S311 - no secret hangs on it
            groups = _choose_groups(rest, n=n, fixed=fixed, generator=generator)
            if len({example.group for example in train}) == 1 and len(train) > 1:
                raise InvalidData(
                    f"all {len(train)} examples of train have the same text, so {name} cannot be carved from them:"
                    f" give other texts too, or a file for {name}."
                )
            if not groups:
                raise InvalidData(
                    f"train is too small to carve {name} from ({len(train)} in all): each label must stand "
                    f"in another text too. Give more examples, or a file for {name}."
                )
            carved[name] = tuple(example for example in rest if example.group in groups)
            rest = tuple(example for example in rest if example.group not in groups)
            share = f"{len(carved[name])} of {len(train)} examples"
            notes.append(f"{name}: {share} carved from train (none was given), by text, seed {seed}.")
    return Splits(
        train=rest,
        dev=carved.get("dev", tuple(dev or ())),
        test=carved.get("test", tuple(test or ())),
        notes=tuple(notes),
    )


def _choose_groups(
    examples: Sequence[Example], *, n: int, fixed: Collection[str], generator: random.Random
) -> set[str]:
    """Choose groups that n examples are of; fewer where whole groups do not add up, more only for a first one."""
    sizes = Counter(example.group for example in examples)
    labels: dict[str, set[str]] = {group: set() for group in sizes}
    for example in examples:
        labels[example.group].update(example.labels)
    left = Counter(label for found in labels.values() for label in found)
    order = [group for group in sizes if group not in fixed]
    generator.shuffle(order)
    n_labelled = sum(sizes[group] for group in sizes if labels[group])
    n_labelled = min(n_labelled, max(1, round(n * n_labelled / len(examples))))
    room = {True: n_labelled, False: n - n_labelled}
    chosen: set[str] = set()
    for group in order:
        is_spared = len(chosen) + 1 < len(sizes) and all(left[label] > 1 for label in labels[group])
        if is_spared and sizes[group] <= room[bool(labels[group])]:
            chosen.add(group)
            left.subtract(labels[group])
            room[bool(labels[group])] -= sizes[group]
    if not chosen and len(sizes) > 1:
        spared = [group for group in order if all(left[label] > 1 for label in labels[group])]
        return {min(spared, key=lambda group: sizes[group])} if spared else set()
    return chosen
