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
from itertools import chain
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

_Lesson = Callable[[Tagger], torch.Tensor]
"""What a teacher said of a batch: a student's loss on it."""

_Teach = Callable[[Sequence[int], Batch], _Lesson]
"""Asks a teacher of a batch of the windows at these places."""

_TIMES, _PASSES = 3, 2
"""How often a lesson is learnt at most: to ask the teacher costs more than a step of a small student. But each text is
in as many lessons at least as _PASSES."""

_AT_ONCE, _HELD_BYTES = (4, 24), 256e6
"""Among how many others, as memory allows: MiniLM-L6's 24 on short texts hold 80 MB."""

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
    Cost: a step is one of training the smaller tagger alone, and a third of a run of the teacher where there are six
        epochs or more; some of its answers are held, _HELD_BYTES of them. As noise comes anew, many epochs go on
        teaching.
    """
    noise, teacher = Noise(windows), copy.deepcopy(teacher).eval()
    is_bf16, _ = choose_precision(settings)
    is_as_wide = teacher.config.hidden_size == tagger.config.hidden_size
    pairs = _pair_layers(tagger, teacher) if is_as_wide else []

    def teach(_: Sequence[int], batch: Batch) -> _Lesson:
        ids, mask, spoken = noise.disturb(batch.ids, batch.mask), batch.mask, batch.targets != IGNORED
        precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16)
        with precision, torch.inference_mode(), _heard(None if is_as_wide else teacher) as taught:
            said = _run(teacher, ids, mask)
        wanted = said.logits[spoken].float().clone()
        kind = torch.bfloat16 if is_bf16 else torch.float32
        states = [said.hidden_states[theirs + 1].to(kind).clone() for _, theirs in pairs]

        def loss(student: Tagger) -> torch.Tensor:
            with precision, _heard(None if is_as_wide else student) as heard:
                got = _run(student, ids, mask)
            total = _compare_labels(got.logits[spoken], wanted)
            if is_as_wide:
                mine = [got.hidden_states[ours + 1] for ours, _ in pairs]
                return total + _HIDDEN_WEIGHT * _compare_hidden(mine, states, real=mask.bool())
            return total + _RELATION_WEIGHT * _compare_relations(heard, taught, real=mask.bool())

        return loss

    times = min(max(settings.epochs // _PASSES, 1), _TIMES)
    n_states = len(pairs) if is_as_wide else len(("queries", "keys", "values"))
    token_bytes = n_states * int(teacher.config.hidden_size) * (2 if is_bf16 else 4)
    return _learn(
        tagger, teach, windows=windows, settings=settings, name=name, times=times, token_bytes=token_bytes
    )


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

    def teach(places: Sequence[int], batch: Batch) -> _Lesson:
        def loss(student: Tagger) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                got = student(batch.ids, batch.mask)
            wanted = torch.full(got.shape, NOT_THERE)
            for row, place in enumerate(places):
                answer = answers[place]
                wanted[row, : answer.shape[0], : answer.shape[1]] = torch.from_numpy(answer)
            spoken = batch.targets != IGNORED
            return _compare_labels(got[spoken], wanted[spoken])

        return loss

    return _learn(tagger, teach, windows=windows, settings=settings, name=name)


def _learn(
    tagger: Tagger, teach: _Teach, *, windows: Sequence[Window], settings: TrainSettings, name: str, times: int = 1,
    token_bytes: int = 0,
) -> Tagger:  # fmt: skip
    """Train a copy of a tagger on what is taught of batches.

    Args:
        times: how often each lesson is learnt; there are as many fewer.
        token_bytes: what a lesson holds of a token.
    """
    lengths = np.array([len(window.ids) for window in windows], np.int64)
    peak, _ = choose_learning_rate(settings.of_every_weight(), width=int(tagger.config.hidden_size))
    student: Tagger = copy.deepcopy(tagger).train()
    batches = list(chain.from_iterable(plan_epochs(lengths, settings=settings)))
    fewest, most = _AT_ONCE if times > 1 else (1, 1)
    lesson_bytes = token_bytes * lengths.sum() * settings.epochs / len(batches)
    at_once = max(min(most, int(_HELD_BYTES / max(lesson_bytes, 1))), fewest)
    lessons: dict[int, _Lesson] = {}

    def loss(place: int) -> torch.Tensor:
        if place not in lessons:
            if len(lessons) == at_once:
                lessons.clear()
            chosen = batches[place]
            batch = make_batch([windows[one] for one in chosen], pad_id=student.pad_id)
            lessons[place] = teach(chosen.tolist(), batch)
        return lessons[place](student)

    with torch_state(settings.seed):
        student.network.get_input_embeddings().weight.requires_grad_(False)
        weights = [one for one in student.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=settings.weight_decay, fused=True)
        plan = plan_lessons(len(batches), times=times, at_once=at_once, seed=settings.seed)
        descend(optimizer, loss, plans=[plan], peak=peak, settings=settings, name=name)
    student.network.get_input_embeddings().weight.requires_grad_(True)
    student.eval()
    return student


def plan_lessons(n_steps: int, *, times: int, at_once: int, seed: int) -> list[int]:
    """Plan which batch each step is on: some of them several times, each time in another order, then the next."""
    chance, plan = np.random.default_rng(seed), []
    for first in range(0, -(-n_steps // times), at_once):
        some = np.arange(first, min(first + at_once, -(-n_steps // times)))
        plan += [int(place) for _ in range(times) for place in (chance.permutation(some) if times > 1 else some)]
    return plan[:n_steps]


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


def _compare_labels(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Give the divergence of the labels, in nats per place, of logits (N, C)."""
    return torch.nn.functional.kl_div(
        got.float().log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True
    )


def _compare_hidden(
    got: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], *, real: torch.Tensor
) -> torch.Tensor:
    """Give the mean relative error of hidden states, (B, T, W) each."""
    total = torch.zeros(())
    for mine, theirs in zip(got, wanted, strict=True):
        target = theirs[real].float()
        error = (mine[real].float() - target).square().mean() / target.square().mean()
        total = total + error / len(wanted)
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
