"""How much faster than the base its new head learns, when all weights are trained.

A step of AdamW moves each weight by the learning rate, whatever the gradient's size. So where a base's vectors for
tokens lie close together, as those of sentence encoders do, a head on them says the same of every token for hundreds of
steps: its weights have to grow first.
Border: torch; no files. Measured in docs/log.md, 2026-11-28.
"""

from collections.abc import Sequence

import torch

from millis.models.prediction import pad
from millis.models.taggers import Tagger
from millis.tasks.task import Head, Window
from millis.training.methods import METHODS

_WINDOWS = 32
_NEEDED = 1.3
"""Pace times squared spread: MiniLM-L6 (spread 0.36) learns well at 10, multilingual-e5-small (0.14) at 70."""
_MOST = 100.0


def choose_pace(tagger: Tagger, windows: Sequence[Window], *, head: Head, adapt: str) -> tuple[float, str | None]:
    """Give how many times the learning rate the head gets, and why, where that was measured.

    Heads for whole texts learn as fast as the base: the mean over a text's tokens is moved by all of them.
    """
    is_of_tokens = head.pooled is None and (head.rows is None or head.is_across)
    if adapt != "full" or not is_of_tokens:
        return METHODS[adapt].head, None
    spread = measure_spread(tagger, windows[:_WINDOWS])
    pace = min(max(_NEEDED / max(spread, 1e-3) ** 2, 1.0), _MOST)
    pace = float(f"{pace:.1g}")  # rounded, since the last bits of a sum are not worth another training
    return pace, f"the head learns {pace:g} times as fast: the base's tokens lie {spread:.2g} apart"


def measure_spread(tagger: Tagger, windows: Sequence[Window]) -> float:
    """Give the standard deviation of the base's hidden states over the tokens of some windows, the mean of channels."""
    network = tagger.network
    encoder = getattr(network, network.base_model_prefix)
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        states = []
        for window in windows:
            ids, mask = pad([window.ids], pad_id=tagger.pad_id)
            hidden = encoder(input_ids=ids.to(tagger.device), attention_mask=mask.to(tagger.device)).last_hidden_state
            states.append(hidden[0].float())
    encoder.train(was_training)
    return float(torch.cat(states).std(dim=0, correction=0).mean())
