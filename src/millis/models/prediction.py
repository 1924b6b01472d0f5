"""Answer many texts with the torch model: the fp32 reference, and what dev scores are made of.

Border: a tagger and a task to answers; no training, no other backend.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from millis.data.examples import Example, options_of
from millis.models.taggers import Tagger
from millis.tasks.task import NO_OPTIONS, Head, Task, Window
from millis.telemetry.progress import bar


def predict(
    model: Tagger, *, task: Task, texts: Sequence[Any], options: Sequence[Mapping[str, Any]] | None = None,
    batch_tokens: int = 2048, name: str | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Answer each text, in order.

    Args:
        options: what is chosen of each, as `Task.options`; None chooses nothing.
        batch_tokens: how many tokens, padding counted, run together; windows of like length do.
        name: of the bar that shows how far it is; none is shown without.
    Cost: all logits are held until the end, 4 * K bytes a token.
    """
    chosen = options or [NO_OPTIONS] * len(texts)
    outputs = run_windows(model, task=task, texts=texts, options=chosen, batch_tokens=batch_tokens, name=name)
    return [
        task.decode(text, *of_text, choice) for text, of_text, choice in zip(texts, outputs, chosen, strict=True)
    ]


def predict_examples(
    model: Tagger, *, task: Task, examples: Sequence[Example], name: str | None = None
) -> list[dict[str, Any]]:
    """Answer each example as it is to be asked, in order; the rest is as in `predict`."""
    texts, options = [one.text for one in examples], [options_of(one) for one in examples]
    return predict(model, task=task, texts=texts, options=options, name=name)


def run_windows(
    model: Tagger, *, task: Task, texts: Sequence[Any], options: Sequence[Mapping[str, Any]] | None = None,
    batch_tokens: int = 2048, name: str | None = None,
) -> list[tuple[tuple[Window, ...], list[NDArray[np.float32]]]]:  # fmt: skip
    """Give the windows of each text, in order, and their logits (R, C); arguments and cost are those of `predict`."""
    chosen = options or [NO_OPTIONS] * len(texts)
    by_text = [task.encode(text, options=choice) for text, choice in zip(texts, chosen, strict=True)]
    windows = [window.ids for of_text in by_text for window in of_text]
    flat = iter(answer_windows(model, windows, head=task.head, batch_tokens=batch_tokens, name=name))
    return [(of_text, [next(flat) for _ in of_text]) for of_text in by_text]


def answer_windows(
    model: Tagger, windows: Sequence[NDArray[np.int64]], *, head: Head, batch_tokens: int = 2048,
    name: str | None = None,
) -> list[NDArray[np.float32]]:  # fmt: skip
    """Give the logits (R, C) of each window of ids (T,), in order; the rest is as in `predict`."""
    logits: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(windows)
    was_training, done = model.training, 0
    model.eval()
    try:
        with torch.inference_mode(), bar(name, total=len(windows)) if name else nullcontext() as advance:
            for rows in plan_by_length([len(ids) for ids in windows], batch_tokens=batch_tokens):
                ids, mask = pad([windows[row] for row in rows], pad_id=model.pad_id)
                answer = model(ids.to(model.device), mask.to(model.device)).float().cpu().numpy()
                for row, of_window in zip(rows, answer, strict=True):
                    logits[row] = head.cut(of_window, len(windows[row])).copy()
                done += len(rows)
                if advance:
                    advance(done, "")
    finally:
        model.train(was_training)
    return logits


def plan_by_length(lengths: Sequence[int], *, batch_tokens: int) -> Iterator[list[int]]:
    """Yield the places of lengths in batches, shortest first, each of at most batch_tokens when padded."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def pad(rows: Sequence[NDArray[np.int64]], *, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill rows up to the longest of them: ids and mask, int64 (B, T)."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
