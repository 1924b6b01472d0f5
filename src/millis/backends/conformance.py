"""What every backend must do, as functions that raise AssertionError; authors of plugins run them too.

Usage:
    for check in CHECKS:
        check(MyBackend, folder, settings=BackendSettings())   # folder: model files in fp32, of any size

Border: asks through the five members of a backend only; needs no test library.
Limits: fp32 files. A runtime that scales activations per call (ONNX Runtime int8 dynamic) lets neighbours and
padding move a logit by more than TOLERANCE, so such a rung is run row by row, unpadded.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from millis.backends.backend import Backend, BackendSettings, Batch
from millis.errors import InvalidBundle, InvalidValue

TOLERANCE = 1e-4
"""How far a logit may move for reasons that are not the model's, relative to the largest logit."""

LENGTHS = (5, 8, 12)
"""Token counts that are run; as buckets, where settings have some."""

Make = Callable[[], Backend]


def check_answers_have_the_shape(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """Logits are float32 (B, R, C) and finite; of R and C each is the token count, or the same at every length."""
    with _Loaded(make, folder, settings) as backend:
        axes = {"R": set[tuple[int, int]](), "C": set[tuple[int, int]]()}
        for n_tokens in LENGTHS:
            for n_rows in (1, 3):
                logits = backend.run(_batch(n_rows, n_tokens))["logits"]
                assert logits.dtype == np.float32, f"logits are {logits.dtype}, not float32"
                assert logits.ndim == 3, f"logits have shape {logits.shape}, not (B, R, C)"
                assert len(logits) == n_rows, f"{len(logits)} answers for a batch of {n_rows}"
                assert np.isfinite(logits).all(), "a logit is not finite"
                for axis, n in zip(axes, logits.shape[1:], strict=True):
                    axes[axis].add((n_tokens, n))
        for axis, counts in axes.items():
            is_of_tokens = all(n_tokens == n for n_tokens, n in counts)
            assert is_of_tokens or len({n for _, n in counts}) == 1, f"{axis} at token counts: {sorted(counts)}"


def check_neighbours_do_not_matter(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """A row alone has the logits that it has in a batch."""
    with _Loaded(make, folder, settings) as backend:
        batch = _batch(4, LENGTHS[1])
        together = backend.run(batch)["logits"]
        for i in range(4):
            alone = backend.run({name: array[i : i + 1] for name, array in batch.items()})["logits"]
            _require_close(alone[0], together[i], what=f"row {i} alone and among others")


def check_padding_does_not_matter(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """Real tokens keep their logits when a row is padded to the next length, whatever id stands in the padding."""
    with _Loaded(make, folder, settings) as backend:
        short, long = LENGTHS[0], LENGTHS[-1]
        bare = _batch(1, short)
        wanted = backend.run(bare)["logits"][0]
        for filler in (0, 7):
            ids = np.full((1, long), filler, np.int64)
            mask = np.zeros((1, long), np.int64)
            ids[:, :short], mask[:, :short] = bare["input_ids"], 1
            padded = backend.run({"input_ids": ids, "attention_mask": mask})["logits"][0]
            padded = padded[: wanted.shape[0], : wanted.shape[1]]
            _require_close(padded, wanted, what=f"{short} tokens bare and padded to {long} with id {filler}")


def check_a_full_batch_answers_as_its_rows_alone(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """What it says of batches is so: as many rows as it takes, of all lengths, each as if it were alone."""
    with _Loaded(make, folder, settings) as backend:
        batching, longest = backend.batching, LENGTHS[-1]
        n_rows = 4 if batching is None else min(batching.max_rows, batching.max_tokens // longest)
        assert n_rows >= 1, f"batches of {batching} take no row of {longest} tokens"
        ids, mask = (array.copy() for array in _batch(n_rows, longest).values())
        for i, n in enumerate(LENGTHS[i % len(LENGTHS)] for i in range(n_rows)):
            ids[i, n:] = mask[i, n:] = 0
        together = backend.run({"input_ids": ids, "attention_mask": mask})["logits"]
        for i, n in enumerate(mask.sum(1)):
            alone = backend.run({"input_ids": ids[i : i + 1, :n], "attention_mask": mask[i : i + 1, :n]})["logits"][0]
            in_batch = together[i, : alone.shape[0], : alone.shape[1]]
            _require_close(in_batch, alone, what=f"row {i} of {n} tokens alone and in a full batch")


def check_answers_depend_on_the_input(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """Other ids give other logits, and the same ids the same ones."""
    with _Loaded(make, folder, settings) as backend:
        first, other = _batch(1, LENGTHS[1], seed=1), _batch(1, LENGTHS[1], seed=2)
        logits = backend.run(first)["logits"]
        assert not np.allclose(logits, backend.run(other)["logits"]), "two inputs have the same logits"
        _require_close(backend.run(first)["logits"], logits, what="the same input twice")


def check_answers_belong_to_the_caller(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """A later run leaves an earlier answer as it was, and an answer may be written to."""
    with _Loaded(make, folder, settings) as backend:
        first = backend.run(_batch(1, LENGTHS[1], seed=1))["logits"]
        kept = first.copy()
        backend.run(_batch(1, LENGTHS[1], seed=2))
        assert np.array_equal(first, kept), "a second run changed the first answer"
        first += 1
        again = backend.run(_batch(1, LENGTHS[1], seed=1))["logits"]
        _require_close(again, kept, what="a run before and after its answer was written to")


def check_inputs_are_left_alone(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """A run neither writes to the arrays it is given nor keeps looking at them."""
    with _Loaded(make, folder, settings) as backend:
        batch = _batch(1, LENGTHS[1])
        before = {name: array.copy() for name, array in batch.items()}
        logits = backend.run(batch)["logits"]
        kept = logits.copy()
        assert all(np.array_equal(batch[name], before[name]) for name in batch), "a run wrote to its input"
        for array in batch.values():
            array[:] = 1
        assert np.array_equal(logits, kept), "an answer changed with the input after the run"


def check_it_can_be_loaded_again(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """Load, close, load again, and two at once: always the same logits."""
    batch = _batch(1, LENGTHS[1])
    backend = make()
    backend.load(folder, settings=settings)
    wanted = backend.run(batch)["logits"]
    backend.close()
    backend.load(folder, settings=settings)
    with _Loaded(make, folder, settings) as second:
        _require_close(second.run(batch)["logits"], wanted, what="two backends on the same files")
        _require_close(backend.run(batch)["logits"], wanted, what="a backend before and after it was closed")
    backend.close()


def check_threads_do_not_matter(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """Two threads inside one inference give the logits that one gives."""
    batch = _batch(1, LENGTHS[-1])
    with _Loaded(make, folder, replace(settings, threads=1)) as one:
        wanted = one.run(batch)["logits"]
    with _Loaded(make, folder, replace(settings, threads=2)) as two:
        _require_close(two.run(batch)["logits"], wanted, what="one thread and two")


def check_unknown_device_is_refused(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """A device that is not there is refused in a sentence that names it and lists those that are."""
    try:
        make().load(folder, settings=replace(settings, device="abacus"))
    except InvalidValue as error:
        said = str(error)
    else:
        raise AssertionError("a device named abacus was accepted")
    assert "'abacus'" in said, f"the refusal does not say what came: {said}"
    assert "cpu" in said, f"the refusal does not list cpu: {said}"


def check_missing_files_are_refused(make: Make, folder: Path, *, settings: BackendSettings) -> None:
    """A folder without model files is InvalidBundle, not a traceback of the library's."""
    try:
        make().load(folder / "nothing-here", settings=settings)
    except InvalidBundle:
        return
    raise AssertionError("a folder that does not exist was loaded")


CHECKS = (
    check_answers_have_the_shape,
    check_neighbours_do_not_matter,
    check_padding_does_not_matter,
    check_a_full_batch_answers_as_its_rows_alone,
    check_answers_depend_on_the_input,
    check_answers_belong_to_the_caller,
    check_inputs_are_left_alone,
    check_it_can_be_loaded_again,
    check_threads_do_not_matter,
    check_unknown_device_is_refused,
    check_missing_files_are_refused,
)


class _Loaded:
    """A backend for as long as a block runs."""

    def __init__(self, make: Make, folder: Path, settings: BackendSettings) -> None:
        self._backend = make()
        self._backend.load(folder, settings=settings)

    def __enter__(self) -> Backend:
        return self._backend

    def __exit__(self, *_: object) -> None:
        self._backend.close()


def _batch(n_rows: int, n_tokens: int, *, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(5, 50, (n_rows, n_tokens))
    return {"input_ids": ids, "attention_mask": np.ones((n_rows, n_tokens), np.int64)}


def _require_close(got: NDArray[np.float32], wanted: NDArray[np.float32], *, what: str) -> None:
    furthest = float(np.abs(got - wanted).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    assert furthest <= allowed, f"{what}: logits differ by {furthest:.3g}, {allowed:.3g} is allowed"
