"""torch to ONNX: the model as a function of token ids, or of the embeddings of these ids.

Border: writes one file; the caller compares. The tracing exporter is used, since it gives the graph that NNCF and
OpenVINO know how to fuse.
Limits: the types that models/ builds; batch and length stay free.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from millis.backends.encoder import SECOND, read_out
from millis.backends.segments import Second
from millis.compiling.writing import writing
from millis.models.taggers import Tagger, load_tagger

_OPSET = 17


class _OfEmbeddings(torch.nn.Module):
    """The same network behind its word embeddings, every token of the first type."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """Give logits (B, R, C) for embeddings (B, T, D) and mask (B, T)."""
        logits = self.tagger.network(inputs_embeds=inputs_embeds, attention_mask=attention_mask).logits
        return read_out(logits, attention_mask, config=self.tagger.config)


def load_for_export(folder: Path) -> Tagger:
    """Load a tagger in fp32 with plain attention, which every runtime can fuse."""
    tagger = load_tagger(folder)
    tagger.eval().float()
    tagger.network.set_attn_implementation("eager")
    return tagger


def export_ids(tagger: Tagger, file: Path) -> None:
    """Write the model as a function of input_ids and attention_mask, int64 (B, T)."""
    ids = _draw_ids(len(tagger.network.get_input_embeddings().weight))
    names = ("input_ids", "attention_mask")
    _export(tagger, (ids, torch.ones_like(ids)), names=names, file=file, answer=_free_axes(tagger))


def export_embeddings(tagger: Tagger, file: Path) -> torch.Tensor:
    """Write the model as a function of inputs_embeds, float32 (B, T, D); give the table it takes them from, (V, D)."""
    table: torch.Tensor = tagger.network.get_input_embeddings().weight.detach()
    ids = _draw_ids(len(table))
    _export(
        _OfEmbeddings(tagger), (table[ids], torch.ones_like(ids)), names=("inputs_embeds", "attention_mask"), file=file,
        answer=_free_axes(tagger),
    )  # fmt: skip
    return table


def second_of(tagger: Tagger) -> Second | None:
    """Give what a second text's embeddings have more, which stays outside of a graph of embeddings; None without."""
    separator = getattr(tagger.config, SECOND, None)
    if separator is None:
        return None
    first, second = tagger.network.base_model.embeddings.token_type_embeddings.weight.detach().numpy()
    return Second(int(separator), second - first)


def _free_axes(tagger: Tagger) -> dict[int, str]:
    """Name the axes of logits (B, R, C) that change with the input."""
    if tagger.is_across:
        return {0: "B", 2: "T"}
    return {0: "B", 1: "T"} if tagger.rows is None else {0: "B"}


def _draw_ids(n_pieces: int) -> torch.Tensor:
    """Draw ids to trace with, int64 (2, 12): ordinary pieces where the vocabulary has more than special ones."""
    return torch.randint(min(5, n_pieces - 1), min(50, n_pieces), (2, 12))


def _export(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], *, names: tuple[str, ...], file: Path,
    answer: dict[int, str],
) -> None:  # fmt: skip
    free = {0: "B", 1: "T"}
    with writing(file), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer warns of every Python branch; the comparison decides
        torch.onnx.export(
            module,
            example,
            str(file),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes={**dict.fromkeys(names, free), "logits": answer},
        )
