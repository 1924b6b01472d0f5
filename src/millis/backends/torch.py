"""PyTorch: the reference that every other backend is compared with.

Border: reads a folder in Hugging Face layout; never on the serving path of a bundle that millis makes.
Limits: only the CPU is tested; that it batches on a GPU (cuda) is written, and was never run on one.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForTokenClassification
from transformers.utils import logging as transformers_logging

from millis.backends.backend import BackendSettings, Batch, Batching
from millis.backends.encoder import find_types, read_out, take_head_off
from millis.backends.grafts import load_changed
from millis.errors import InvalidBundle, InvalidValue

_ON_A_GPU = Batching(max_rows=64, max_tokens=16_384)


class TorchBackend:
    """An encoder with its head in fp32, as it was trained."""

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
            model = load_changed(folder) or AutoModelForTokenClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # the library's errors have no common base
            raise InvalidBundle(
                f"the torch model cannot be loaded ({type(error).__name__}): give a folder with config.json and"
                " model.safetensors."
            ) from error
        take_head_off(model)
        torch.set_num_threads(settings.threads)
        self._device = torch.device(settings.device)
        self.batching = _ON_A_GPU if settings.device == "cuda" else None
        self._model = model.eval().to(self._device)

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Run one batch without gradients."""
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array).to(self._device) for name, array in batch.items()}
            types = find_types(tensors["input_ids"], config=self._model.config)
            logits = self._model(**tensors, **types).logits
            logits = read_out(logits, tensors["attention_mask"], config=self._model.config)
        return {"logits": logits.float().cpu().numpy()}

    def close(self) -> None:
        """Free the weights."""
        del self._model
