"""Teach a smaller tagger to answer as the one it was made from: logits and hidden states, on noisy training text.

Border: two taggers of the same width and number of layers in, the smaller one trained in place of a copy out; no
labels are read. Short, so it keeps no checkpoint: a run that is killed is made again.
Limits: word embeddings are left as they are.
Source: logits as in Hinton et al. 2015, arXiv:1503.02531, at temperature 1; hidden states layer by layer as in
TinyBERT (arXiv:1909.10351), which here need no projection, since pruning leaves the width. Noise makes text that the
teacher has not learnt by heart, as augmentation does there; ours draws pieces at random instead of by a language model.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from millis.backends.encoder import read_out, read_shape
from millis.models.taggers import Tagger
from millis.tasks.task import IGNORED, Window
from millis.telemetry.progress import bar
from millis.training.batches import make_batch, plan_epoch
from millis.training.settings import TrainSettings, choose_learning_rate, choose_precision
from millis.training.steps import rate_share, torch_state

_HIDDEN_WEIGHT = 1.0

_NOISE = 0.2
"""Mean share of a text's pieces that another piece of the training text replaces. WNUT-17, MiniLM-L6 pruned to 18 % of
its layers' time, 12 epochs: F1 on dev 48.8 without and 52.0 with it, on test 30.3 and 31.5."""


def distil(tagger: Tagger, *, teacher: Tagger, windows: Sequence[Window], settings: TrainSettings, name: str) -> Tagger:
    """Give a copy of a tagger that was trained to answer as its teacher does.

    Args:
        teacher: of the same labels, width and number of layers.
        windows: with targets, which say only which places count.
        settings: epochs, batches, learning rate, seed and precision.
        name: what the progress bar says.
    Cost: an epoch is some one and a half of training the smaller tagger alone. As noise comes anew in each epoch,
        many epochs go on teaching.
    """
    lengths = np.array([len(window.ids) for window in windows], np.int64)
    plans = [
        plan_epoch(
            lengths, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens, seed=settings.seed,
            epoch=epoch,
        )
        for epoch in range(settings.epochs)
    ]  # fmt: skip
    n_steps = sum(map(len, plans))
    peak, _ = choose_learning_rate(settings, width=int(tagger.config.hidden_size))
    noise = Noise(windows)
    layers = _layers_to_match(tagger)
    is_bf16, _ = choose_precision(settings)
    with torch_state(settings.seed), bar(name, total=n_steps) as advance:
        student: Tagger = copy.deepcopy(tagger).train()
        teacher = copy.deepcopy(teacher).eval()
        student.network.get_input_embeddings().weight.requires_grad_(False)
        weights = [one for one in student.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=settings.weight_decay, fused=True)
        step = 0
        for plan in plans:
            for places in plan:
                ids, mask, targets = make_batch([windows[place] for place in places], pad_id=student.pad_id)
                ids = noise.disturb(ids, mask)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                    with torch.inference_mode():
                        wanted = _run(teacher, ids, mask)
                    got = _run(student, ids, mask)
                loss = _loss(got, wanted, layers=layers, spoken=targets != IGNORED, real=mask.bool())
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, settings.max_gradient_norm)
                for group in optimizer.param_groups:
                    group["lr"] = peak * rate_share(step, n_steps=n_steps, warmup_share=settings.warmup_share)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                advance(step, f"loss {float(loss.detach()):.3f}")
    student.network.get_input_embeddings().weight.requires_grad_(True)
    student.eval()
    return student


def _run(tagger: Tagger, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    out = tagger.network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
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


def _layers_to_match(tagger: Tagger) -> list[int]:
    """List the layers whose hidden states are compared: a layer that kept nothing has none of its own to learn, and the
    one before it is to give what comes after.
    """
    shape = read_shape(tagger.network)
    return [i for i in range(len(shape)) if i + 1 == len(shape) or any(shape[i + 1])]


def _loss(
    got: Any, wanted: Any, *, layers: Sequence[int], spoken: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    """Add the divergence of the labels, in nats per place, to the mean relative error of the layers' hidden states."""
    want = wanted.logits[spoken].float().clone()
    loss = torch.nn.functional.kl_div(
        got.logits[spoken].float().log_softmax(-1), want.log_softmax(-1), reduction="batchmean", log_target=True
    )
    for layer in layers:
        target = wanted.hidden_states[layer + 1][real].float().clone()
        error = (got.hidden_states[layer + 1][real].float() - target).square().mean() / target.square().mean()
        loss = loss + _HIDDEN_WEIGHT * error / len(layers)
    return loss
