"""Dialogues in ids, several in a row, and the loss of their answers.

Dialogues of a row see themselves alone: attention is block-diagonal, and positions begin anew with each.
Border: ids and a causal language model in, a loss out; what a dialogue's ids are is tasks/chat.py's.
Source: packing without cross-talk as in Krell et al. 2021, arXiv:2107.02027.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Lesson:
    """A dialogue in ids.

    Args:
        ids: int64 (T,), prompt and answer, with the piece that ends it.
        n_prompt: how many of them are not learnt.
    """

    ids: NDArray[np.int64]
    n_prompt: int


def pack_rows(lessons: Sequence[Lesson], *, seed: str) -> list[list[int]]:
    """Put lessons into rows of at most ROW_TOKENS, each into the first that has room, in an order drawn by seed."""
    order = list(range(len(lessons)))
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    rows: list[list[int]] = []
    room: list[int] = []
    for place in order:
        size = len(lessons[place].ids)
        fits = next((i for i in range(max(len(rows) - 16, 0), len(rows)) if room[i] >= size), None)
        if fits is None:
            rows.append([place])
            room.append(ROW_TOKENS - size)
        else:
            rows[fits].append(place)
            room[fits] -= size
    return rows


def row_loss(model: Any, lessons: Sequence[Lesson], *, teacher: Any = None) -> tuple[torch.Tensor, int]:
    """Compute the loss of answers' pieces over a row of lessons that see themselves alone.

    Args:
        teacher: a model of the same pieces; the loss is then half the distance to what it says.
    Returns:
        the sum of losses, float32 (), and how many pieces it is over.
    Source: Hinton et al. 2015, arXiv:1503.02531, at temperature 1: the mean of the two losses.
    """
    logits, right = _say(model, lessons)
    loss = torch.nn.functional.cross_entropy(logits, right, reduction="sum")
    if teacher is not None:
        with torch.no_grad():
            wanted = _say(teacher, lessons)[0].log_softmax(-1)
        distance = torch.nn.functional.kl_div(logits.log_softmax(-1), wanted, reduction="sum", log_target=True)
        loss = (loss + distance) / 2
    return loss, len(right)


def _say(model: Any, lessons: Sequence[Lesson]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give logits, float32 (T, V), at the places of answers' pieces, and these pieces, int64 (T,)."""
    ids = torch.from_numpy(np.concatenate([one.ids for one in lessons]))
    sizes = [len(one.ids) for one in lessons]
    positions = torch.cat([torch.arange(size) for size in sizes])
    owner = torch.repeat_interleave(torch.arange(len(lessons)), torch.tensor(sizes))
    is_seen = (owner[:, None] == owner[None, :]) & torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask = torch.zeros(is_seen.shape).masked_fill(~is_seen, torch.finfo(torch.float32).min)
    first = np.cumsum([0, *sizes[:-1]])
    places = torch.cat(
        [torch.arange(at + one.n_prompt - 1, at + len(one.ids) - 1) for at, one in zip(first, lessons, strict=True)]
    )
    state = model.model(
        input_ids=ids[None], attention_mask=mask[None, None], position_ids=positions[None], use_cache=False
    ).last_hidden_state[0]
    return model.lm_head(state[places]).float(), ids[places + 1]
