"""PyTorch: on the CPU the reference that every other backend is compared with, on a GPU of NVIDIA's what serves.

The numbers are of the precision that config.json names (fp32, or fp16 and bf16 as compiling/narrowing.py writes them);
answers are float32 in any. On cuda batches are run, and at static lengths as CUDA graphs.
Border: reads a folder in Hugging Face layout; graphs are graphs.py's.
Limits: cuda ran on one H200 and is no part of the tests that run everywhere; mps is passed on by name.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForTokenClassification
from transformers.utils import logging as transformers_logging

from millis.backends.backend import BackendSettings, Batch, Batching
from millis.backends.encoder import find_types, read_out, take_head_off
from millis.backends.grafts import load_changed
from millis.backends.graphs import CudaRecorder, Graphs, plan_shapes
from millis.errors import InvalidBundle, InvalidValue, is_out_of_memory, out_of_memory

_ON_A_GPU = Batching(max_rows=64, max_tokens=16_384)
_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchBackend:
    """An encoder with its head, as it was trained or in half its bits."""

    name = "torch"
    batching: Batching | None = None

    def load(self, folder: Path, *, settings: BackendSettings) -> None:
        """Load the weights; threads are the process's, since torch has no others."""
        there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        there += ["mps"] if torch.backends.mps.is_available() else []
        if settings.device not in there:
            raise InvalidValue(
                f"backend torch has no device {settings.device!r} here: it has {', '.join(there)}."
            )
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # a network without a head is no surprise
        try:
            precision = _read_precision(folder)
            model = load_changed(folder) or AutoModelForTokenClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=precision
            )
        except Exception as error:  # the library's errors have no common base
            if is_out_of_memory(error):
                raise out_of_memory("while a model was loaded") from error
            raise InvalidBundle(
                f"the torch model cannot be loaded ({type(error).__name__}): give a folder with config.json and"
                " model.safetensors."
            ) from error
        take_head_off(model)
        torch.set_num_threads(settings.threads)
        self._device = torch.device(settings.device)
        self.batching = _ON_A_GPU if settings.device == "cuda" else None
        self._model = model.eval().to(self._device, dtype=precision)
        self._graphs = self._record(settings.buckets) if self.batching and settings.buckets else None

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Run one batch without gradients; where a graph of its shape was recorded, as that."""
        found = self._graphs.run(batch) if self._graphs else None
        if found is not None:
            return {"logits": found}
        with torch.inference_mode():
            ids, mask = (torch.from_numpy(batch[name]).to(self._device) for name in ("input_ids", "attention_mask"))
            return {"logits": self._compute(ids, mask).cpu().numpy()}

    def close(self) -> None:
        """Free the weights, and the graphs' memory."""
        del self._model
        self._graphs = None

    def _compute(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        config = self._model.config
        logits = self._model(input_ids=ids, attention_mask=mask, **find_types(ids, config=config)).logits
        return read_out(logits.float(), mask, config=config)

    def _record(self, lengths: Sequence[int]) -> Graphs | None:
        """Record every shape of batches; what cannot be recorded is launched kernel by kernel, and that is logged."""
        shapes = plan_shapes(lengths, batching=_ON_A_GPU)
        try:
            return Graphs(self._compute, shapes=shapes, recorder=CudaRecorder(self._device))
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            logging.getLogger(__name__).warning("no CUDA graphs, so each batch costs its launches: %s", reason)
            return None


def _read_precision(folder: Path) -> torch.dtype:
    """Give the precision that a folder's config.json names, fp32 where it names none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _PRECISIONS[config.get("dtype") or "float32"]
