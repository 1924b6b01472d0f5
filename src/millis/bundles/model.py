"""A rung, loaded: text in, answer out, the milliseconds of each stage beside it.

Border: the one place where task and backend meet; the server and Python users run this same code.
Limits: a Model is for one thread at a time; `share` gives another thread its own over the same weights.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.backends import Backend, BackendSettings, Batching, backends
from millis.bundles.bundle import TOKENIZER, Bundle, open_bundle
from millis.bundles.cache import compiled_cache
from millis.bundles.manifest import Rung
from millis.bundles.together import count_next, order_windows, put_back
from millis.errors import InvalidBundle, InvalidValue
from millis.tasks import Task, tasks
from millis.tasks.instructing import SPEAKING
from millis.tasks.task import NO_OPTIONS
from millis.tasks.tokenization import Tokenizer

_N_LATELY = 4
"""Windows of which the lengths are kept warm."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said of one text, and how long each stage took, in integer nanoseconds."""

    result: dict[str, Any]
    tokenize_ns: int
    run_ns: int
    decode_ns: int
    n_tokens: int


class Model:
    """A loaded rung.

    Usage:
        model = millis.load("people.millis")
        model("Maria flew to Osaka")             # {"entities": [...]}
        model(["one text", "another"])           # a list of the same
        model("one text", top_k=3)               # what its task lets a request choose
    """

    def __init__(self, task: Task, backend: Backend, *, rung: Rung, name: str) -> None:
        self.task = task
        self.rung = rung
        self.name = name
        self._backend = backend
        self._buckets = rung.buckets
        self._padded = {
            bucket: (np.zeros((1, bucket), np.int64), np.zeros((1, bucket), np.int64)) for bucket in rung.buckets or ()
        }
        self._lately: deque[tuple[int, int]] = deque(maxlen=_N_LATELY)
        self._n_idle = 0

    @overload
    def __call__(self, text: list[Any], **options: Any) -> list[dict[str, Any]]: ...
    @overload
    def __call__(self, text: Any, **options: Any) -> dict[str, Any]: ...
    def __call__(self, text: Any, **options: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Answer one text, or each of a list; or what else the task is asked about, as itself or as a dict.

        Args:
            options: what the task lets a request choose.
        Raises:
            InvalidValue: not text, text that no UTF-8 can carry, or a choice that there is not.
        """
        chosen = _read_options(options, known=self.task.options) if options else NO_OPTIONS
        if isinstance(text, list):
            return [self.answer(one, options=chosen).result for one in text]
        return self.answer(text, options=chosen).result

    def answer(self, text: Any, *, options: Mapping[str, Any] = NO_OPTIONS) -> Answer:
        """Answer one text, or what else the task is asked about, and account for the time.

        Args:
            options: of the task's, as a request's are once they are read.
        """
        if not isinstance(text, self.task.asks):
            text = _read_asked(text, self.task.asks)
        began = perf_counter_ns()
        windows = self.task.encode(text, options=options)
        encoded = perf_counter_ns()
        logits = self._run_all([window.ids for window in windows])
        ran = perf_counter_ns()
        result = self.task.decode(text, windows, logits, options)
        decoded = perf_counter_ns()
        n_tokens = sum(len(window.ids) for window in windows)
        return Answer(result, encoded - began, ran - encoded, decoded - ran, n_tokens)

    def bucket_of(self, n_tokens: int) -> int:
        """Give the token count that a window really costs: its bucket, or its own where any length runs."""
        return n_tokens if self._buckets is None else next(bucket for bucket in self._buckets if bucket >= n_tokens)

    def run(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run the network on one window of ids (T,): pad to its bucket, give logits (R, C)."""
        n = len(ids)
        if self._buckets is None:
            batch = {"input_ids": ids[None], "attention_mask": np.ones((1, n), np.int64)}
            whole: NDArray[np.float32] = self._backend.run(batch)["logits"][0]
            return whole
        bucket = self.bucket_of(n)
        self._lately.append((bucket, 1))
        return self._run_in(bucket, ids)

    def _run_all(self, windows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Run the windows of one text, together as far as the rung does that; give logits (R, C) of each."""
        order = order_windows([len(ids) for ids in windows], rows=self.rung.rows)
        logits: list[NDArray[np.float32]] = []
        while len(logits) < len(order):
            n_run = len(logits)
            n = count_next(len(order) - n_run, rows=self.rung.rows)
            logits += self.run_next([windows[place] for place in order[n_run : n_run + n]])
        return put_back(logits, order=order)

    def run_next(self, windows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Run as many windows of ids (T,) as `count_next` says, in one inference; give logits (R, C) of each."""
        if len(windows) == 1:
            return [self.run(windows[0])]
        self._lately.append((self.bucket_of(max(map(len, windows))), len(windows)))
        return self.run_together(windows)

    def _run_in(self, bucket: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        n = len(ids)
        padded, mask = self._padded[bucket]
        padded[0, :n], padded[0, n:] = ids, 0
        mask[0, :n], mask[0, n:] = 1, 0
        logits: NDArray[np.float32] = self._backend.run({"input_ids": padded, "attention_mask": mask})["logits"][0]
        return self.task.head.cut(logits, n)

    @property
    def batching(self) -> Batching | None:
        """What it runs at once, None where each window is better run alone."""
        return self._backend.batching

    def run_together(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Run the network on windows of ids (T,) in one batch, each padded to the longest; give the logits (R, C)."""
        longest = self.bucket_of(max(len(row) for row in rows))
        ids, mask = np.zeros((2, len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        logits = self._backend.run({"input_ids": ids, "attention_mask": mask})["logits"]
        return [self.task.head.cut(one, len(row)) for one, row in zip(logits, rows, strict=True)]

    def warm(self, *, rounds: int = 3) -> list[tuple[int, float]]:
        """Run every bucket and the example a few times, so that the first request is like the others.

        Returns:
            token counts, and the shortest time in ms that each took.
        """
        times: dict[int, float] = {}
        for _ in range(rounds):
            for ids in self.lengths_to_warm():
                began = perf_counter_ns()
                self.run(ids)
                times[len(ids)] = min(times.get(len(ids), np.inf), (perf_counter_ns() - began) / 1e6)
                self._warm_together(ids)
            self.answer(self.task.example)
        return sorted(times.items())

    def keep_warm(self) -> None:
        """Run the example or, in turn, a bucket of the last windows: each has code and weights of its own."""
        self._n_idle += 1
        turn = self._n_idle % (len(self._lately) + 1)
        if not turn:
            lately = self._lately.copy()  # the example is no request: it would push those out
            self.answer(self.task.example)
            self._lately = lately
            return
        bucket, n = self._lately[turn - 1]
        ids = np.full(min(bucket, self.task.max_tokens), 1, np.int64)
        if n > 1:
            self.run_together([ids] * n)
        else:
            self._run_in(bucket, ids)

    def warm_length(self, ids: NDArray[np.int64]) -> None:
        """Run a window in every way that a request may find it run: alone, and with as many as run together."""
        self.run(ids)
        self._warm_together(ids)

    def _warm_together(self, ids: NDArray[np.int64]) -> None:
        if self.rung.rows > 1:
            self.run_together([ids] * self.rung.rows)

    def lengths_to_warm(self) -> list[NDArray[np.int64]]:
        """Give windows of ids, one for every bucket, or two lengths where any runs."""
        lengths = dict.fromkeys(min(bucket, self.task.max_tokens) for bucket in self._buckets or (16, 64))
        return [np.full(n, 1, np.int64) for n in lengths]

    def share(self) -> "Model":
        """Give another thread a Model over the same weights."""
        return Model(self.task, self._backend, rung=self.rung, name=self.name)

    def close(self) -> None:
        """Free the weights."""
        self._backend.close()


def _read_asked(given: Any, asks: Any) -> Any:
    """Make what a task is asked about of a dict of its parts."""
    if asks is str:
        raise InvalidValue(f"a model takes text, not {type(given).__name__}: give a str or a list of them.")
    try:
        return msgspec.convert(given, type=asks)
    except msgspec.ValidationError as error:
        parts = ", ".join(asks.__struct_fields__)
        raise InvalidValue(f"a model for this task takes {parts} ({error}): give a dict of them, or a list.") from error


def _read_options(given: Mapping[str, Any], *, known: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Check what was chosen, by name the task's options."""
    for name, value in given.items():
        if name not in known:
            raise InvalidValue(f"this task has no option {name!r}: it has {', '.join(known) or 'none'}.")
        try:
            msgspec.convert(value, type=known[name][0])
        except msgspec.ValidationError as error:
            raise InvalidValue(f"{name} cannot be {value!r} ({error}): give another value.") from error
    return dict(given)


def load(path: str | Path | Bundle, *, rung: str | None = None, streams: int = 1, cache: Path | None = None) -> Model:
    """Load a bundle's rung, every file checked first.

    Args:
        rung: its name, or None for the one that serves.
        streams: how many threads will share it.
        cache: folder for compiled models; None for the user's own.
    Raises:
        InvalidBundle: a file is missing, truncated or altered.
        InvalidValue: it is of a model that speaks.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    return _load_rung(bundle, bundle.rung(rung), task=load_task(bundle), streams=streams, cache=cache)


def load_ladder(bundle: Bundle, *, streams: int = 1, has_fallback: bool = True) -> tuple[Model, ...]:
    """Load the rung that serves and, where asked, those that are faster, slowest first; they share one task."""
    task, serving = load_task(bundle), bundle.rung(None)
    faster: list[tuple[float, Rung]] = []
    if has_fallback and serving.latency:
        limit = _mean_ms(serving)
        faster = [(_mean_ms(one), one) for one in bundle.manifest.rungs if one.latency and _mean_ms(one) < limit]
    rungs = [serving, *(rung for _, rung in sorted(faster, key=lambda pair: -pair[0]))]
    return tuple(_load_rung(bundle, rung, task=task, streams=streams, cache=None) for rung in rungs)


def _mean_ms(rung: Rung) -> float:
    return sum(row.p50_ms for row in rung.latency) / len(rung.latency)


def _load_rung(bundle: Bundle, chosen: Rung, *, task: Task, streams: int, cache: Path | None) -> Model:
    backend: Backend = backends[chosen.backend]()
    settings = BackendSettings(
        device=chosen.device,
        threads=chosen.threads,
        buckets=chosen.buckets,
        rows=chosen.rows,
        streams=streams,
        cache=cache or compiled_cache(bundle, chosen),
        table=bundle.path / chosen.table if chosen.table else None,
    )
    backend.load(bundle.path / chosen.folder, settings=settings)
    model = Model(task, backend, rung=chosen, name=bundle.name)
    _check_parts(model)
    return model


def _check_parts(model: Model) -> None:
    """Run the longest window of the last piece: parts of different models show here, not in somebody's request."""
    task = model.task
    reason: Exception | None = None
    try:
        shape = model.run(np.full(task.max_tokens, task.n_pieces - 1, np.int64)).shape
    except MemoryError:
        raise
    except Exception as error:  # each library has its own for an id, or a place, beyond its table
        shape, reason = (), error
    if shape != task.head.shape(task.max_tokens):
        model.close()
        raise InvalidBundle(
            f"{model.name}: rung {model.rung.name} cannot run a window of {task.max_tokens} tokens out of"
            f" {task.n_pieces:,} pieces to scores of {len(task.labels)} labels: its network belongs to another"
            " tokenizer or to other labels. Make the bundle anew."
        ) from reason


def load_task(bundle: Bundle) -> Task:
    """Make the task that a bundle's manifest names.

    Raises:
        InvalidValue: a model that speaks has none.
        InvalidBundle: settings that are not the task's.
    """
    manifest = bundle.manifest
    if manifest.task in SPEAKING:
        raise InvalidValue(
            f"{bundle.name} speaks, and is asked while it is served: `millis serve {bundle.path}`, then ask the server."
        )
    tokenizer = Tokenizer(bundle.path / TOKENIZER)
    try:
        task: Task = tasks[manifest.task](tokenizer, labels=manifest.labels, **manifest.task_settings)
    except TypeError as error:
        raise InvalidBundle(
            f"{bundle.name}: the task settings {sorted(manifest.task_settings)} are not those of {manifest.task}: make"
            " the bundle anew."
        ) from error
    return task
