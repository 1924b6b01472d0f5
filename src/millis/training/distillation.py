"""Teach a tagger to answer as another one does: logits, hidden states or attention relations, on noisy training text.

Border: taggers in, one trained in place of a copy out; no labels are read. Short, so it keeps no checkpoint: a run that
is killed is made again.
Limits: word embeddings are left as they are.
Source: logits as in Hinton et al. 2015, arXiv:1503.02531, at temperature 1; hidden states layer by layer as in
TinyBERT (arXiv:1909.10351), which need no projection where the width is the same; where it is not, relations of the
last layer's queries, keys and values, as in MiniLMv2 (arXiv:2012.15828, 3.2), of as many heads as both widths allow.
Noise makes text that the teacher has not learnt by heart, as augmentation does in TinyBERT; ours draws pieces at random
instead of by a language model.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from millis.backends.encoder import KEPT, NOT_THERE, Part, find_parts, find_types, read_out, read_shape
from millis.models.taggers import Tagger
from millis.tasks.task import IGNORED, Window
from millis.training.batches import Batch, make_batch, plan_epochs
from millis.training.settings import TrainSettings, choose_learning_rate, choose_precision
from millis.training.steps import descend, torch_state

_Loss = Callable[[Tagger, Sequence[int], Batch], torch.Tensor]
"""What a student has to learn of a batch: its loss on the windows of these places."""

_RELATION_WEIGHT, _MOST_RELATION_HEADS = 1.0, 12

_HIDDEN_WEIGHT = 1.0

_NOISE = 0.2
"""Mean share of a text's pieces that another piece of the training text replaces. WNUT-17, MiniLM-L6 pruned to 18 % of
its layers' time, 12 epochs: F1 on dev 48.8 without and 52.0 with it, on test 30.3 and 31.5."""


def distil(tagger: Tagger, *, teacher: Tagger, windows: Sequence[Window], settings: TrainSettings, name: str) -> Tagger:
    """Give a copy of a tagger that was trained to answer as its teacher does.

    Args:
        teacher: of the same outputs, in the same order, and of the same tokenizer. With the same width hidden states
            are learnt too, with another one attention relations.
        windows: with targets, which say only which places count.
        settings: epochs, batches, learning rate, seed and precision.
        name: what the progress bar says.
    Cost: an epoch is some one and a half of training the smaller tagger alone, if the teacher is no larger than what it
        was made from. As noise comes anew in each epoch, many epochs go on teaching.
    """
    noise, teacher = Noise(windows), copy.deepcopy(teacher).eval()
    is_bf16, _ = choose_precision(settings)
    is_as_wide = teacher.config.hidden_size == tagger.config.hidden_size
    pairs = _pair_layers(tagger, teacher) if is_as_wide else []

    def loss(student: Tagger, _: Sequence[int], batch: Batch) -> torch.Tensor:
        ids, mask, targets = noise.disturb(batch.ids, batch.mask), batch.mask, batch.targets
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            with torch.inference_mode(), _heard(None if is_as_wide else teacher) as taught:
                wanted = _run(teacher, ids, mask)
            with _heard(None if is_as_wide else student) as heard:
                got = _run(student, ids, mask)
        total = _compare_labels(got.logits, wanted.logits, spoken=targets != IGNORED)
        if is_as_wide:
            return total + _HIDDEN_WEIGHT * _compare_hidden(got, wanted, pairs=pairs, real=mask.bool())
        return total + _RELATION_WEIGHT * _compare_relations(heard, taught, real=mask.bool())

    return _learn(tagger, loss, windows=windows, settings=settings, name=name)


def distil_answers(
    tagger: Tagger,
    *,
    answers: Sequence[NDArray[np.float32]],
    windows: Sequence[Window],
    settings: TrainSettings,
    name: str,
) -> Tagger:
    """Give a copy of a tagger that was trained to give these answers, of a teacher that cannot be asked in between.

    Args:
        answers: logits (R, C) of each window.
        windows, settings, name: as in `distil`; without noise, whose answers nobody knows.
    """
    is_bf16, _ = choose_precision(settings)

    def loss(student: Tagger, places: Sequence[int], batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            got = student(batch.ids, batch.mask)
        wanted = torch.full(got.shape, NOT_THERE)
        for row, place in enumerate(places):
            answer = answers[place]
            wanted[row, : answer.shape[0], : answer.shape[1]] = torch.from_numpy(answer)
        return _compare_labels(got, wanted, spoken=batch.targets != IGNORED)

    return _learn(tagger, loss, windows=windows, settings=settings, name=name)


def _learn(tagger: Tagger, loss_of: _Loss, *, windows: Sequence[Window], settings: TrainSettings, name: str) -> Tagger:
    """Train a copy of a tagger by a loss."""
    lengths = np.array([len(window.ids) for window in windows], np.int64)
    peak, _ = choose_learning_rate(settings.of_every_weight(), width=int(tagger.config.hidden_size))
    student: Tagger = copy.deepcopy(tagger).train()

    def loss(places: NDArray[np.int64]) -> torch.Tensor:
        batch = make_batch([windows[place] for place in places], pad_id=student.pad_id)
        return loss_of(student, places.tolist(), batch)

    with torch_state(settings.seed):
        student.network.get_input_embeddings().weight.requires_grad_(False)
        weights = [one for one in student.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=settings.weight_decay, fused=True)
        plans = plan_epochs(lengths, settings=settings)
        descend(optimizer, loss, plans=plans, peak=peak, settings=settings, name=name)
    student.network.get_input_embeddings().weight.requires_grad_(True)
    student.eval()
    return student


def _run(tagger: Tagger, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    types = find_types(ids, config=tagger.config)
    out = tagger.network(input_ids=ids, attention_mask=mask, output_hidden_states=True, **types)
    out.logits = read_out(out.logits, mask, config=tagger.config)
    return out


class Noise:
    """Replaces pieces by others of the training text, as often as those occur; special tokens stay."""

    def __init__(self, windows: Sequence[Window]) -> None:
        ids = torch.from_numpy(np.concatenate([window.ids for window in windows]))
        ends = {int(window.ids[place]) for window in windows for place in (0, -1)}
        self._special = torch.tensor(sorted(ends))
        self._pieces = ids[~torch.isin(ids, self._special)]

    def disturb(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Give ids, int64 (B, T), some texts hardly touched and some up to twice the mean share."""
        if not len(self._pieces):
            return ids
        share = 2 * _NOISE * torch.rand(len(ids), 1)
        is_hit = (torch.rand(ids.shape) < share) & mask.bool() & ~torch.isin(ids, self._special)
        return torch.where(is_hit, self._pieces[torch.randint(len(self._pieces), ids.shape)], ids)


def _pair_layers(tagger: Tagger, teacher: Tagger) -> list[tuple[int, int]]:
    """List the layers whose hidden states are compared, ours and the teacher's.

    Where some of the teacher's are gone, one that stayed is to give what the teacher has before our next one; else ours
    are spread evenly over the teacher's. A layer that kept nothing has none of its own to learn, and the one before it
    is to give what comes after.
    """
    shape, n_taught = read_shape(tagger.network), len(read_shape(teacher.network))
    layers = [i for i in range(len(shape)) if i + 1 == len(shape) or any(shape[i + 1])]
    origins = getattr(tagger.config, KEPT, None)
    if origins is not None:
        ends = [*(origin - 1 for origin in origins[1:]), n_taught - 1]
        return [(i, ends[i]) for i in layers]
    return [(i, max((i + 1) * n_taught // len(shape), 1) - 1) for i in layers]


def _compare_labels(got: torch.Tensor, wanted: torch.Tensor, *, spoken: torch.Tensor) -> torch.Tensor:
    """Give the divergence of the labels, in nats per place."""
    want = wanted[spoken].float().clone()
    return torch.nn.functional.kl_div(
        got[spoken].float().log_softmax(-1), want.log_softmax(-1), reduction="batchmean", log_target=True
    )


def _compare_hidden(got: Any, wanted: Any, *, pairs: Sequence[tuple[int, int]], real: torch.Tensor) -> torch.Tensor:
    """Give the mean relative error of the layers' hidden states."""
    total = torch.zeros(())
    for mine, theirs in pairs:
        target = wanted.hidden_states[theirs + 1][real].float().clone()
        error = (got.hidden_states[mine + 1][real].float() - target).square().mean() / target.square().mean()
        total = total + error / len(pairs)
    return total


@contextmanager
def _heard(tagger: Tagger | None) -> Iterator[list[torch.Tensor]]:
    """Give queries, keys and values, (B, T, W), of the last layer that has heads, once the network has run."""
    heard: list[torch.Tensor] = []
    parts = find_parts(tagger.network) if tagger is not None else []
    last: Part | None = next((part for part in reversed(parts) if part.kind == "heads" and part.n_units), None)
    if last is None:
        yield heard
        return
    heard += [torch.empty(0)] * 3

    def hear(place: int, out: torch.Tensor) -> None:
        heard[place] = out

    handles = [
        matrix.register_forward_hook(lambda _, __, out, place=place: hear(place, out))
        for place, matrix in enumerate(last.into)
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _compare_relations(
    got: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], *, real: torch.Tensor
) -> torch.Tensor:
    """Give the mean divergence, in nats, of whom each token's queries, keys and values are like; 0 without heads."""
    total = torch.zeros(())
    for mine, theirs in zip(got, wanted, strict=False):
        common = math.gcd(mine.shape[-1], theirs.shape[-1])
        n_heads = next(n for n in range(_MOST_RELATION_HEADS, 0, -1) if common % n == 0)
        like, want = (_relate(states, n_heads=n_heads, real=real) for states in (mine, theirs.clone()))
        far = torch.nn.functional.kl_div(like, want, reduction="none", log_target=True).sum(-1)  # (B, H, T)
        total = total + far.mean(1)[real].mean() / len(got)
    return total


def _relate(states: torch.Tensor, *, n_heads: int, real: torch.Tensor) -> torch.Tensor:
    """Give the logarithm of how like each token is to each other one, (B, H, T, T), of states (B, T, W)."""
    split = states.float().unflatten(-1, (n_heads, -1)).transpose(1, 2)
    alike = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    return alike.masked_fill(~real[:, None, None], NOT_THERE).log_softmax(-1)
