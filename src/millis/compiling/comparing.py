"""How far one backend's outputs are from another's, on the same ids.

Border: runs loaded backends; decides only whether a conversion that should be exact was.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from millis.backends import Backend, BackendSettings, backends
from millis.errors import RunFailed
from millis.tasks.task import Head

EXACT_MAX_ABS = 1e-2
EXACT_AGREEMENT = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Outputs of two models, row by row: a row is a token, or a text where the model speaks of whole ones.

    Args:
        max_abs: largest difference of a logit.
        agreement: share of rows whose largest logit is the same, 0 to 1; of vectors the mean cosine.
    """

    max_abs: float
    agreement: float
    n_tokens: int


@contextmanager
def loaded(backend: str, folder: Path, *, settings: BackendSettings | None = None) -> Iterator[Backend]:
    """Load model files for as long as the block runs."""
    one: Backend = backends[backend]()
    one.load(folder, settings=settings or BackendSettings())
    try:
        yield one
    finally:
        one.close()


def run_all(
    backend: Backend,
    ids: Sequence[NDArray[np.int64]],
    *,
    padding: int = 0,
    buckets: Sequence[int] | None = None,
    head: Head | None = None,
) -> list[NDArray[np.float32]]:
    """Run windows one by one: logits (R, C) of each.

    Args:
        padding: masked tokens to put behind every window; a mask that an export has lost shows only there.
        buckets: the backend's static lengths, ascending; each window is padded to the first that holds it instead.
        head: what the network answers; None for one row per token.
    """
    logits = []
    for one in ids:
        n = next(bucket for bucket in buckets if bucket >= len(one)) if buckets else len(one) + padding
        mask = np.ones((1, n), np.int64)
        mask[:, len(one) :] = 0
        padded = np.pad(one, (0, n - len(one)))[None]
        whole = backend.run({"input_ids": padded, "attention_mask": mask})["logits"][0]
        logits.append(whole[: len(one)] if head is None else head.cut(whole, len(one)))
    return logits


def compare(
    source: Sequence[NDArray[np.float32]], logits: Sequence[NDArray[np.float32]], *, head: Head | None = None
) -> Difference:
    """Compare logits (R, C) of the same windows; head is as in `run_all`."""
    pairs = list(zip(source, logits, strict=True))
    n_tokens = sum(len(want) for want, _ in pairs)
    agree = _cosines if head is not None and head.pooled else _same_labels
    same = sum(agree(want, got) for want, got in pairs)
    largest = float(np.max([np.abs(want - got).max() for want, got in pairs]))  # a NaN anywhere stays one
    return Difference(max_abs=largest, agreement=same / n_tokens, n_tokens=n_tokens)


def _same_labels(want: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    return float((want.argmax(axis=1) == got.argmax(axis=1)).sum())


def _cosines(want: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    lengths = np.linalg.norm(want, axis=1) * np.linalg.norm(got, axis=1)
    return float(((want * got).sum(axis=1) / np.maximum(lengths, 1e-12)).sum())


def require_exact(difference: Difference, *, step: str) -> None:
    """Refuse a conversion that changed what the model computes.

    Raises:
        RunFailed: logits differ by more than EXACT_MAX_ABS or are no numbers, or labels agree on less than
            EXACT_AGREEMENT.
    """
    if not (difference.max_abs <= EXACT_MAX_ABS and difference.agreement >= EXACT_AGREEMENT):
        raise RunFailed(
            f"{step} changed the model: logits differ by up to {difference.max_abs:.3g} (allowed {EXACT_MAX_ABS:g}) and"
            f" {100 * difference.agreement:.2f} % of {difference.n_tokens} tokens keep their label. This export is not"
            " used; report it with the base and the versions that `millis inspect` prints."
        )
