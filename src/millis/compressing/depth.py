"""Layers of a model that speaks: which can go, and the model without them.

Border: a speaker in, a smaller one out, untrained; searching/shortening.py has it learn again.
Limits: the families of models/speakers.py, whose layers stand in model.model.layers. A layer goes whole.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch

from millis.errors import InvalidValue
from millis.models.speakers import Speaker
from millis.telemetry.progress import bar
from millis.training.lessons import Lesson, pack_rows, row_loss
from millis.training.settings import TrainSettings, choose_precision

_MEASURED_ROWS = 2
"""Rows of dialogues, some thousand tokens each, on which a layer's absence is measured."""


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Layers that stay.

    Args:
        layers: counted from 0, rising.
        loss, loss_before: mean loss of answers' pieces with these layers alone, and with all; natural logarithm.
    """

    layers: tuple[int, ...]
    loss: float
    loss_before: float


def choose_layers(model: Any, lessons: Sequence[Lesson], *, n: int, settings: TrainSettings) -> Kept:
    """Choose n layers to keep: one after the other goes, the one without which the loss on answers rises least.

    A layer's harm is measured when it is first seen, and again only when it is the least of those known: as others go,
    harm mostly grows, so what is fresh and least is taken to be least of all.

    Args:
        model: causal, of torch; it is not changed.
        lessons: of dev, one at least; the first rows of them are measured on.
        settings: their precision is used.
    Raises:
        InvalidValue: n is not 1 to as many layers as there are.
    Source: greedy choice with lazy evaluation, Minoux 1978; what is measured is the task's own loss, where ShortGPT
        (arXiv:2403.03853, 3.2) has the angle between a layer's input and output.
    Cost: a forward pass over _MEASURED_ROWS rows for each layer, and some for each that goes.
    """
    kept = list(range(len(model.model.layers)))
    if not 1 <= n <= len(kept):
        raise InvalidValue(f"{n} layers cannot be kept of {len(kept)}: give 1 to {len(kept)}.")
    is_bf16, _ = choose_precision(settings)
    rows = [[lessons[i] for i in row] for row in pack_rows(lessons, seed="in order")[:_MEASURED_ROWS]]

    def measure(layers: Sequence[int]) -> float:
        with only_layers(model, layers), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            sums = [row_loss(model, row) for row in rows]
        return sum(float(loss) for loss, _ in sums) / sum(count for _, count in sums)

    model.eval()
    now = before = measure(kept)
    harm = dict.fromkeys(kept, -math.inf)
    fresh: set[int] = set()
    n_gone = len(kept) - n
    with bar("layers that can go", total=n_gone) as advance:
        while len(kept) > n:
            least = min(kept, key=harm.__getitem__)
            if least in fresh:
                kept.remove(least)
                now += harm[least]
                fresh.clear()
                advance(n_gone - len(kept) + n, f"loss {now:.3f}")
            else:
                harm[least] = measure([one for one in kept if one != least]) - now
                fresh.add(least)
    return Kept(layers=tuple(kept), loss=now, loss_before=before)


def keep_layers(speaker: Speaker, layers: Sequence[int]) -> Speaker:
    """Copy a speaker with these layers only, in their order: it answers as the whole one that passes by the others."""
    with only_layers(speaker.model, layers):
        model = copy.deepcopy(speaker.model)
    for at, layer in enumerate(model.model.layers):  # places in the store of keys and values
        layer.self_attn.layer_idx = at
    return dataclasses.replace(speaker, model=model)


@contextmanager
def only_layers(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """Let a model be one of these layers only, without a store of keys and values; whole again afterwards."""
    whole, config = model.model.layers, model.config
    n_whole, kinds = config.num_hidden_layers, getattr(config, "layer_types", None)
    model.model.layers = torch.nn.ModuleList(whole[i] for i in layers)
    config.num_hidden_layers = len(layers)
    if kinds is not None:
        config.layer_types = [kinds[i] for i in layers]
    try:
        yield
    finally:
        model.model.layers, config.num_hidden_layers = whole, n_whole
        if kinds is not None:
            config.layer_types = kinds
