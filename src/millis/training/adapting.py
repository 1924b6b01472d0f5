"""Train a part of a tagger instead of the whole: what is frozen, what is put in, what is merged at the end.

Border: one tagger in memory, changed in place; names and numbers stand in methods.py, modules that stay in the graph
in backends/grafts.py. LoRA, AdaLoRA and IA3 are the library peft's, imported only for them.
Source: Hu et al. 2022, arXiv:2106.09685 (on every matrix of a layer, as in Dettmers et al. 2023, arXiv:2305.14314);
Zhang et al. 2023, arXiv:2303.10512 (AdaLoRA); Liu et al. 2022, arXiv:2205.05638 (IA3).
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from millis.backends.encoder import find_parts
from millis.backends.grafts import graft, is_of_graft
from millis.errors import InvalidValue
from millis.models.taggers import Tagger
from millis.tasks.task import Window
from millis.training.methods import METHODS

_HEAD = "classifier."
_ALPHA = 2
"""Low-rank changes are multiplied by it, whatever their rank: 2 as in Hu et al. (alpha 16 at rank 8)."""

_FIRST_RANK = 1.5
"""AdaLoRA begins with so many times the rank that it ends with, as in its paper (12 for 8)."""

_WARMING, _SETTLING = 0.1, 0.3
"""Shares of AdaLoRA's steps before ranks are taken away, and after."""

_ORTHOGONALITY = 0.1
"""Weight of the penalty that keeps AdaLoRA's singular vectors apart, as in its paper."""

_RANKS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What peft's rank allocator keeps from step to step, by weight."""


class Adaptation:
    """A tagger of which a method trains a part; full trains all of it and changes nothing here.

    Args:
        tagger: changed in place: weights are frozen, modules put in.
        method: a name in METHODS.
        n_steps: that training has, which AdaLoRA plans by.
        windows: of the training data, in the ids that the tagger takes now.
        seed: of the pieces that prefix and prompt begin as.
    Raises:
        InvalidValue: the method cannot be put on this network.
    """

    def __init__(self, tagger: Tagger, *, method: str, n_steps: int, windows: Sequence[Window], seed: int) -> None:
        self._tagger, self._method = tagger, method
        self._peft: Any = None  # peft's model around the network, where it is peft's method
        if method == "full":
            return
        device = next(tagger.parameters()).device
        tagger.requires_grad_(False)
        if METHODS[method].is_peft:
            self._peft = _wrap(tagger, method, n_steps=n_steps)
        else:
            size = min(METHODS[method].size, tagger.longest)
            graft(tagger.network, method, size=size, ids=_draw_pieces(windows, n=size, seed=seed).to(device))
        for name, weights in tagger.network.named_parameters():
            if "ranknum" in name:  # AdaLoRA's own count, which peft lets be trained when it moves it to a GPU
                weights.requires_grad_(False)
            is_norm = method == "adapter" and "norm" in name.lower() and "embeddings." not in name
            if name.startswith(_HEAD) or is_of_graft(name) or is_norm:
                weights.requires_grad_(True)

    @property
    def n_trained(self) -> int:
        """Count the weights that are trained."""
        return sum(weights.numel() for weights in self._tagger.parameters() if weights.requires_grad)

    def penalty(self) -> torch.Tensor | None:
        """Give what the method adds to the loss, float32 (): AdaLoRA's vectors are to be orthogonal.

        Source: as peft's AdaLoraModel.forward, which adds it only to a loss of the network's own.
        """
        return keep_apart(self._tagger.network) if self._method == "adalora" else None

    def end_step(self, step: int) -> None:
        """Do what the method does between an optimizer's step, from 0, and dropping the gradients."""
        if self._method == "adalora":
            self._peft.base_model.update_and_allocate(step)

    def whole(self) -> Tagger:
        """Give the tagger as it is saved: with what can be merged merged, into a copy."""
        if self._peft is None:
            return self._tagger
        table = self._tagger.network.get_input_embeddings().weight  # most of the weights, and nothing is merged into it
        return Tagger(copy.deepcopy(self._peft, {id(table): table}).merge_and_unload())

    def state(self) -> dict[str, Any]:
        """Give what the next step depends on beside the weights: AdaLoRA's account of its ranks."""
        return read_ranks(self._peft) if self._method == "adalora" else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        if self._method == "adalora":
            take_ranks(self._peft, state)


def keep_apart(network: torch.nn.Module) -> torch.Tensor:
    """Give the penalty of AdaLoRA's singular vectors that are not orthogonal, float32 ()."""
    errors = []
    for name, vectors in network.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            product = vectors @ vectors.T if "lora_A" in name else vectors.T @ vectors
            errors.append(torch.linalg.norm(product - torch.eye(len(product), device=product.device)))
    return _ORTHOGONALITY * torch.stack(errors).mean()


def plan_low_rank(method: str, *, matrices: Sequence[str], n_steps: int) -> Any:
    """Give peft's settings of lora or adalora.

    Args:
        matrices: names of the modules that get low-rank changes.
        n_steps: that training has.
    """
    import peft

    size = METHODS[method].size
    if method == "lora":
        return peft.LoraConfig(r=size, lora_alpha=_ALPHA * size, target_modules=list(matrices))
    first = round(_FIRST_RANK * size)
    settling = min(max(int(_SETTLING * n_steps), 1), n_steps - 1)
    return peft.AdaLoraConfig(
        init_r=first, target_r=size, lora_alpha=_ALPHA * first, tinit=int(_WARMING * n_steps), tfinal=settling,
        total_step=n_steps, target_modules=list(matrices),
    )  # fmt: skip


def read_ranks(model: Any) -> dict[str, Any]:
    """Give what AdaLoRA's rank allocator keeps from step to step."""
    allocator = model.base_model.rankallocator
    return {"pattern": allocator.peft_config.rank_pattern, **{name: getattr(allocator, name) for name in _RANKS}}


def take_ranks(model: Any, state: dict[str, Any]) -> None:
    """Take up what `read_ranks` gave."""
    allocator = model.base_model.rankallocator
    allocator.peft_config.rank_pattern = state["pattern"]
    device = next(model.parameters()).device
    for name in _RANKS:
        setattr(allocator, name, {key: value.to(device) for key, value in state[name].items()})


def _wrap(tagger: Tagger, method: str, *, n_steps: int) -> Any:
    """Put peft's layers into the tagger's network, in place; give the library's model around it."""
    import peft

    names = {id(module): name for name, module in tagger.network.named_modules()}
    parts = find_parts(tagger.network)
    matrices = [names[id(matrix)] for part in parts for matrix in (*part.into, part.out)]
    if method in ("lora", "adalora"):
        config = plan_low_rank(method, matrices=matrices, n_steps=n_steps)
    else:
        keys = [names[id(matrix)] for part in parts[::2] for matrix in part.into[1:]]
        channels = [names[id(part.out)] for part in parts[1::2]]
        config = peft.IA3Config(target_modules=[*keys, *channels], feedforward_modules=channels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what is meant: rank 8 is AdaLoRA's own, not LoRA's
            return peft.get_peft_model(tagger.network, config)
    except ValueError as error:
        said = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise InvalidValue(
            f"adapt cannot be {method} on this {tagger.config.model_type} network ({said}): choose full, or another"
            " base."
        ) from error


def _draw_pieces(windows: Sequence[Window], *, n: int, seed: int) -> torch.Tensor:
    """Draw ids of the training text, int64 (1, n), as often as they occur."""
    ids = np.concatenate([window.ids[1:-1] if len(window.ids) > 2 else window.ids for window in windows])
    return torch.from_numpy(np.random.default_rng(seed).choice(ids, n))[None]
