"""What a base makes of the data: the task in its pieces, how long texts are in them, which lengths to compile for.

Border: reads the base's tokenizer and configuration; builds and measures nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from millis.bundles.bundle import TOKENIZER
from millis.data.examples import Example, options_of, readings_of, texts_of
from millis.data.lengths import LengthHistogram, choose_buckets
from millis.data.splits import Splits
from millis.models.described import check_vocabulary, longest_input, pooling_of, width_of
from millis.tasks import Task, tasks
from millis.tasks.tokenization import Tokenizer

SHORTEST_WINDOW, LONGEST_WINDOW = 128, 256
"""Between them lies the longest window: two short windows cost more than a long one, and texts to come may be longer
than those of train (WNUT-17: 67 tokens at p99.9 of train, 100 at p99 of test)."""

OVERLAP = 32
_N_BUCKETS = 8

_N_PRUNED_BUCKETS, _SURPRISE = 5, 0.1
"""Of pruned networks, also where train has few texts (WNUT-17's test has 100 tokens at p99, train 67). A length that
runs seldom is found cold, and a small network loses more by that than by padding: WNUT-17's 40 % at 100/s and 200/s,
median 1.60 and 1.40 ms with five lengths, 1.88 and 1.64 with ten; at p99 3.3 and 3.1, 3.0 and 2.8."""

_OF_BASE: dict[str, Callable[[Path], Any]] = {"width": width_of, "pooling": pooling_of}
"""What a task may want to know of its base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """What a base makes of the data: the task in its pieces, and how long texts are in them.

    Args:
        requests: tokens of each window of each text of train, none longer than a window may be; a query has a window
            with each of its documents.
        buckets, pruned_buckets: static lengths for the whole network, and for pruned ones.
        pieces: of a text of train, in the mean.
        unknown: share of them that stand for what has no piece.
    """

    task: Task
    requests: tuple[tuple[int, ...], ...]
    buckets: tuple[int, ...]
    pruned_buckets: tuple[int, ...]
    pieces: float
    unknown: float


def lay_out(base: Path, splits: Splits, *, task: str, asked: Mapping[str, Any]) -> LaidOut:
    """Choose windows and buckets for a base that `find_base` gave, by the texts of train.

    Args:
        task: its name.
        asked: what is asked of the task itself.
    """
    tokenizer = Tokenizer(base / TOKENIZER)
    check_vocabulary(base, n_pieces=tokenizer.n_vocabulary)
    kind, unknown = tasks[task], tokenizer.unknown
    read: list[list[int]] = []
    n_pieces = n_unknown = 0
    prefixes = {name: str(asked.get(f"{name}_prefix", "")) for name in ("query", "passage")}
    for example in splits.train:
        prefix = prefixes.get(options_of(example).get("input_type", ""), "")
        read.append([])
        for first, *others in readings_of(example.text):
            texts = [tokenizer.encode(text).ids for text in (prefix + first, *others)]
            read[-1].append(sum(map(len, texts)) + tokenizer.n_special(len(texts)))
            n_pieces += sum(map(len, texts))
            n_unknown += sum(ids.count(unknown) for ids in texts) if unknown is not None else 0
    longest = _longest_window(list_lengths(read), limit=longest_input(base))
    requests = tuple(tuple(min(length, longest) for length in windows) for windows in read)
    lengths = list_lengths(requests)
    facts = {name: find(base) for name, find in _OF_BASE.items() if name in kind.asked and name not in asked}
    learnt: Task = kind.learn(
        tokenizer, splits.train, max_tokens=longest, overlap=OVERLAP, example=kind.shown[_is_chinese(splits.train)],
        **facts, **asked,
    )  # fmt: skip
    return LaidOut(
        task=learnt, requests=requests,
        buckets=choose_buckets(lengths, count=_N_BUCKETS, maximum=longest),
        pruned_buckets=choose_buckets(lengths, count=_N_PRUNED_BUCKETS, maximum=longest, surprise=_SURPRISE),
        pieces=n_pieces / len(lengths), unknown=n_unknown / max(n_pieces, 1),
    )  # fmt: skip


def list_lengths(requests: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """List the tokens of every window of every request."""
    return tuple(chain.from_iterable(requests))


def _longest_window(lengths: Sequence[int], *, limit: int) -> int:
    """Take in 99.9 % of the texts whole, within reason: a multiple of 8, and what the base takes."""
    reach = LengthHistogram.from_lengths(lengths).percentile(99.9)
    return min(max(-(-reach // 8) * 8, SHORTEST_WINDOW), LONGEST_WINDOW, limit)


def _is_chinese(examples: Sequence[Example]) -> bool:
    """Say whether most of what is asked has Chinese characters in it."""
    n = sum(any("\u4e00" <= character <= "\u9fff" for character in _join(example)) for example in examples)
    return 2 * n > len(examples)


def _join(example: Example) -> str:
    return " ".join(texts_of(example.text))
