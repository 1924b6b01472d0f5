"""The work of a tagger, counted from its config.json, is what torch counts while it runs."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from making import make_tokenizer
from millis.backends.encoder import LayerShape, shrink
from millis.backends.grafts import graft
from millis.models.taggers import build_tagger, save_tagger
from millis.models.work import read_work
from millis.tasks.task import Head
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("change", [None, "pruned", "adapter", "prefix", "prompt"])
def test_operations_and_weights_are_those_of_torch(kind: str, change: str | None, tmp_path: Path) -> None:
    tagger = build_tagger(write_base(tmp_path / "base", kind), head=Head(("O", "B-X", "I-X")), seed=2).eval()
    if change == "pruned":
        shrink(tagger.network, [LayerShape(1, 48), LayerShape(0, 16)])
    elif change:
        graft(tagger.network, change, size=4)
    save_tagger(tagger, tmp_path / "tagger", tokenizer_file=make_tokenizer(tmp_path / "tokenizer"))
    work = read_work(tmp_path / "tagger")
    matrices = [one.weight.numel() for one in tagger.modules() if isinstance(one, torch.nn.Linear)]
    assert work.matrices == sum(matrices)
    assert work.row == tagger.network.get_input_embeddings().weight.shape[1]
    ids = torch.full((1, 7), 5)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tagger(ids, torch.ones_like(ids))
    assert work.operations(7) == counter.get_total_flops()
    assert work.n_bytes(7, weight_bytes=1, row_bytes=2) == sum(matrices) + 7 * work.row * 2
