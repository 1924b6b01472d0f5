"""Teach static token vectors and a small head to answer as a network does: the fastest rung there is.

Each piece of the vocabulary begins as what the network makes of it alone, so that words of no training text have a
meaning too; then vectors, pairs of neighbours and head learn the network's answers on noisy training text.
Border: a tagger that speaks of whole texts in, numpy weights out. Short, so it keeps no checkpoint.
Source: vectors as in model2vec (doi:10.5281/zenodo.17270888): mean hidden states of single pieces, principal
components, weights by frequency as in SIF (Arora et al. 2017); noise as in distillation.py.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from millis.backends.static import StaticWeights, hash_pairs
from millis.errors import InvalidValue
from millis.models.taggers import Tagger
from millis.tasks.task import Head, Window
from millis.training.batches import make_batch, plan_epochs
from millis.training.distillation import Noise
from millis.training.settings import TrainSettings, choose_precision
from millis.training.steps import descend, torch_state

_WIDTH, _HIDDEN = 256, 384
_PAIRS = 1 << 14
_RATE = 4e-3
_RARE = 1e-3
"""Frequency at which a piece's vector starts at half its length."""


class _Static(torch.nn.Module):
    """The trainable form, (B, T) ids and mask to logits (B, R, C), with the vectors of used pieces alone."""

    def __init__(self, table: torch.Tensor, *, used: torch.Tensor, rows: int, n_outputs: int) -> None:
        super().__init__()
        width = table.shape[1]
        self.rows = rows
        self.place = torch.zeros(len(table), dtype=torch.long)
        self.place[used] = torch.arange(len(used))
        self.table = torch.nn.Embedding.from_pretrained(table[used], freeze=False)
        self.pairs = torch.nn.Embedding.from_pretrained(torch.zeros(_PAIRS, width), freeze=False)
        self.inside = torch.nn.Linear(width, _HIDDEN)
        self.drop = torch.nn.Dropout(0.1)
        self.out = torch.nn.Linear(_HIDDEN, n_outputs)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Give logits (B, R, C)."""
        real = mask.unsqueeze(-1).float()
        total = (self.table(self.place[ids]) * real).sum(1)
        places = torch.from_numpy(hash_pairs(ids.numpy(), _PAIRS))
        total = total + (self.pairs(places) * real[:, 1:]).sum(1)
        logits: torch.Tensor = self.out(self.drop(self.inside(total / real.sum(1)).relu()))
        return logits.unflatten(1, (self.rows, -1))


def distil_static(
    teacher: Tagger, *, head: Head, windows: Sequence[Window], settings: TrainSettings, prefix: Sequence[int],
    suffix: Sequence[int],
) -> StaticWeights:  # fmt: skip
    """Train static vectors to answer as a network does.

    Args:
        teacher: a network that speaks of whole texts.
        head: what it answers.
        windows: of the training data.
        settings: epochs, batch size and seed; the learning rate is this function's own.
        prefix, suffix: special tokens around every text.
    Raises:
        InvalidValue: the network speaks of tokens.
    Cost: an epoch is one run of the network over the training data; before, one over its vocabulary.
    """
    rows = teacher.rows
    if rows is None:
        raise InvalidValue("static vectors answer for whole texts, and this network speaks of tokens: take another.")
    lengths = np.array([len(window.ids) for window in windows], np.int64)
    noise, teacher = Noise(windows), copy.deepcopy(teacher).eval()
    is_bf16, _ = choose_precision(settings)
    with torch_state(settings.seed):
        table = _start(teacher, windows, prefix=prefix, suffix=suffix, is_bf16=is_bf16)
        used = torch.from_numpy(np.unique(np.concatenate([window.ids for window in windows])))
        student = _Static(table, used=used, rows=rows, n_outputs=len(teacher.labels)).train()

        def loss(places: NDArray[np.int64]) -> torch.Tensor:
            ids, mask, _ = make_batch([windows[place] for place in places], pad_id=teacher.pad_id)
            ids = noise.disturb(ids, mask)
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                wanted = teacher(ids, mask)
            return _differ(student(ids, mask).flatten(0, 1), wanted.float().clone().flatten(0, 1), head=head)

        optimizer = torch.optim.AdamW(student.parameters(), lr=_RATE, weight_decay=0.0, fused=True)
        plans = plan_epochs(lengths, settings=settings)
        descend(optimizer, loss, plans=plans, peak=_RATE, settings=settings, name="static vectors", is_clipped=False)
        table[used] = student.table.weight.detach()
    return StaticWeights(
        table=table.half().numpy(), pairs=student.pairs.weight.detach().half().numpy(),
        inside=student.inside.weight.detach().T.contiguous().numpy(), inside_bias=student.inside.bias.detach().numpy(),
        out=student.out.weight.detach().T.contiguous().numpy(), out_bias=student.out.bias.detach().numpy(),
        rows=rows,
    )  # fmt: skip


def _differ(got: torch.Tensor, wanted: torch.Tensor, *, head: Head) -> torch.Tensor:
    """Give how far answers (N, C) are from those wanted: of vectors 1 - cosine, else the divergence in nats."""
    if head.pooled is not None:
        return (1 - torch.nn.functional.cosine_similarity(got, wanted, dim=-1)).mean()
    return torch.nn.functional.kl_div(
        got.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True
    )


def _start(
    teacher: Tagger, windows: Sequence[Window], *, prefix: Sequence[int], suffix: Sequence[int], is_bf16: bool
) -> torch.Tensor:
    """Give a vector for each piece, float32 (V, D): what the network makes of it alone."""
    n_pieces = len(teacher.network.get_input_embeddings().weight)
    body = teacher.network.base_model
    found = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
        for ids in torch.arange(n_pieces).split(512):
            around = [torch.tensor(list(one)).expand(len(ids), -1) for one in (prefix, suffix)]
            rows = torch.cat([around[0], ids[:, None], around[1]], dim=1)
            found.append(body(input_ids=rows).last_hidden_state.float().mean(1))
    hidden = torch.cat(found).clone()
    hidden = hidden - hidden.mean(0)
    _, _, components = torch.linalg.svd(hidden[:: max(n_pieces // 20_000, 1)], full_matrices=False)
    table = hidden @ components[:_WIDTH].T
    counts = np.bincount(np.concatenate([window.ids for window in windows]), minlength=n_pieces)
    frequency = torch.from_numpy(counts / counts.sum()).float()
    table = table * (_RARE / (_RARE + frequency)).unsqueeze(-1)
    return table / table.std().clamp_min(1e-6)
