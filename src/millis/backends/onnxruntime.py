"""ONNX Runtime: the portable second, and the fastest int8 on processors without VNNI.

Border: reads model.onnx; the one file that imports onnxruntime.
Limits: only the CPU provider is tested; the others are passed on by name.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from millis.backends.backend import BackendSettings, Batch, Batching
from millis.errors import InvalidBundle, InvalidValue, is_out_of_memory, out_of_memory

FILE = "model.onnx"
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


class OnnxRuntimeBackend:
    """One session for every length: buckets cost nothing here and are run as they come."""

    name = "onnxruntime"
    batching: Batching | None = None

    def load(self, folder: Path, *, settings: BackendSettings) -> None:
        """Open model.onnx on the provider that the device names."""
        provider = _PROVIDERS.get(settings.device)
        available = ort.get_available_providers()
        if provider not in available:
            there = ", ".join(name for name, one in _PROVIDERS.items() if one in available)
            raise InvalidValue(f"backend onnxruntime has no device {settings.device!r} here: it has {there}.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A thread that spins while it waits takes the core of the next request.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(folder / FILE), options, providers=[provider])
        except Exception as error:  # the library's errors have no common base
            if is_out_of_memory(error):
                raise out_of_memory("while a model was loaded") from error
            raise InvalidBundle(f"{FILE} cannot be loaded: {type(error).__name__}. Make the bundle anew.") from error

        self._names = [one.name for one in self._session.get_inputs()]  # without any head there is no mask

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Run one batch; the session may be called from several threads."""
        return {"logits": self._session.run(["logits"], {name: batch[name] for name in self._names})[0]}

    def close(self) -> None:
        """Free the session."""
        del self._session
