"""OpenVINO: one compiled model per static length, and one more where rows run together, or one for every length.

The graph begins behind the word embeddings; their rows are looked up here, from one memory-mapped table that all
lengths and all workers share. With the table inside, eight lengths of MiniLM-L6 int8 held 930 MB.
Border: reads model.xml, model.bin, second.npz where there is one (segments.py), and embeddings.npy beside them or where
settings say; the one file on the serving path that imports openvino.
Limits: only the CPU device is tested; gpu, npu and auto are passed on by name.
"""

import ctypes
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.backends.backend import BackendSettings, Batch, Batching
from millis.backends.ir import EMBEDDINGS, FILE
from millis.backends.segments import read_second
from millis.errors import InvalidBundle, InvalidValue, RunFailed, is_out_of_memory, out_of_memory

# ir.py, above, has taken the client for analytics away from it.
if "openvino" not in sys.modules:
    # Without the client, the converter is still half of the import (0.09 s against 0.04 s) and 10 MB in each worker;
    # openvino does without when there is none, so it comes when it is called.
    sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]
    try:
        import openvino as ov
    finally:
        del sys.modules["openvino.tools.ovc"]

    def _convert_model(*arguments: Any, **options: Any) -> Any:
        from openvino.tools.ovc import convert_model

        return convert_model(*arguments, **options)

    ov.convert_model = _convert_model
else:
    import openvino as ov

_DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU", "auto": "AUTO"}


class OpenVinoBackend:
    """Static shapes beat a dynamic one, most of all on short inputs, at the price of one compiled model each.

    That is so of rows too: with their number left open a row alone takes up to twice as long (docs/decisions/0037).
    """

    name = "openvino"
    batching: Batching | None = None

    def load(self, folder: Path, *, settings: BackendSettings) -> None:
        """Compile every bucket, or take it from settings.cache."""
        core = ov.Core()
        device = _DEVICES.get(settings.device)
        if device != "CPU" and device not in (there := _find_devices(core)):
            known = ", ".join(sorted(name for name, one in _DEVICES.items() if one in there))
            hint = " NVIDIA GPUs need backend onnxruntime or torch." if settings.device == "cuda" else ""
            raise InvalidValue(f"backend openvino has no device {settings.device!r} here: it has {known}.{hint}")
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            # Precision is decided when a rung is made and compared then; the runtime is not to lower it by itself.
            # Pinned, each of several processes takes the same core (docs/decisions/0039).
            properties |= {
                "INFERENCE_NUM_THREADS": settings.threads * settings.streams,
                "NUM_STREAMS": settings.streams,
                "INFERENCE_PRECISION_HINT": "f32",
                "ENABLE_CPU_PINNING": False,
            }
            if settings.packed_from is not None:
                properties["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = settings.packed_from
        if settings.cache is not None:
            properties["CACHE_DIR"] = _make_cache(settings.cache)
        self._compiled: dict[_Shape | None, Any] = {}
        self._rows = settings.rows
        self._requests = threading.local()
        try:
            self._table = np.load(settings.table or folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
            self._second = read_second(folder)
            model = core.read_model(folder / FILE)
            self._has_mask = len(model.inputs) > 1  # without any head nothing asks for it
            for shape in _list_shapes(settings):  # not side by side: it changes the process's locale meanwhile
                shaped = model.clone()  # clones share the mapped weights; reading anew would map them once each
                if shape is not None:
                    shapes = {"inputs_embeds": [*shape, self._table.shape[1]], "attention_mask": list(shape)}
                    shaped.reshape({one.any_name: shapes[one.any_name] for one in model.inputs})
                self._compiled[shape] = core.compile_model(shaped, device, properties)
        except (RuntimeError, OSError, ValueError, KeyError, EOFError) as error:
            if is_out_of_memory(error):
                raise out_of_memory("while a model was loaded") from error
            raise InvalidBundle(
                f"{FILE}, model.bin or {EMBEDDINGS} cannot be loaded by OpenVINO: missing, truncated, altered, or"
                " not its format. Make the bundle anew."
            ) from error
        _let_go(settings.cache)

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Run a batch; on static shapes as many rows at once as there is a shape for, the others one by one."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if None in self._compiled:
            return {"logits": self._run_any(ids, mask)}
        n, n_tokens = ids.shape
        step = self._rows if n >= self._rows else 1
        ran, together = [], n - n % step
        for first in (*range(0, together, step), *range(together, n)):
            rows = slice(first, first + (step if first < together else 1))
            ran.append(self._run_rows(self._held((rows.stop - first, n_tokens)), ids[rows], mask[rows]))
        return {"logits": ran[0] if len(ran) == 1 else np.concatenate(ran)}

    def _run_rows(self, held: "_Held", ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        held.embedded[...] = self._table[ids]
        if self._second is not None:
            self._second.add(held.embedded, ids)
        if held.mask is not None:
            held.mask[...] = mask
        held.request.infer(share_outputs=True)
        return held.logits.copy()

    def _run_any(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        embedded = self._table[ids].astype(np.float32, copy=False)
        if self._second is not None:
            self._second.add(embedded, ids)
        inputs = [embedded, mask] if self._has_mask else [embedded]
        request = self._held(None).request
        logits: NDArray[np.float32] = request.infer(inputs, share_inputs=True, share_outputs=True)[0].copy()
        return logits

    def close(self) -> None:
        """Free the compiled models."""
        self._compiled.clear()
        self._requests = threading.local()

    def _held(self, shape: "_Shape | None") -> "_Held":
        """Give this thread's own request for a shape, None where any runs."""
        known: dict[_Shape | None, _Held] = self._requests.__dict__.setdefault("by_shape", {})
        if shape not in known:
            if shape not in self._compiled:
                lengths = dict.fromkeys(str(one[1]) for one in self._compiled if one is not None)
                there = ", ".join(lengths) or "none, the backend is closed"
                raise InvalidValue(f"{shape and shape[1]} tokens are no bucket of this model: pad to one of {there}.")
            known[shape] = _Held(self._compiled[shape], is_static=shape is not None, has_mask=self._has_mask)
        return known[shape]


_Shape = tuple[int, int]
"""Rows and tokens."""


class _Held:
    """A request and, where its shapes are static, the memory that it reads and writes.

    What is written there needs no tensors made for each inference, which take 0.08 ms.

    Attributes:
        embedded: (B, T, W).
        mask: (B, T), None where the network has none.
        logits: (B, R, C), of the last inference.
    """

    def __init__(self, compiled: Any, *, is_static: bool, has_mask: bool) -> None:
        self.request = compiled.create_infer_request()
        if is_static:
            inputs = {one.any_name: self.request.get_tensor(one).data for one in compiled.inputs}
            self.embedded: NDArray[np.float32] = inputs["inputs_embeds"]
            self.mask: NDArray[np.int64] | None = inputs["attention_mask"] if has_mask else None
            self.logits: NDArray[np.float32] = self.request.get_output_tensor(0).data


def _list_shapes(settings: BackendSettings) -> list[_Shape | None]:
    """List what to compile for; None takes any."""
    if settings.buckets is None:
        return [None]
    return [(rows, bucket) for rows in sorted({1, settings.rows}) for bucket in settings.buckets]


def _find_devices(core: Any) -> set[str]:
    """List the devices here. Asking loads every plugin, 4 MB in each worker: the processor is taken for granted."""
    return {name.partition(".")[0] for name in core.available_devices} | {"AUTO"}


def _make_cache(cache: Path) -> str:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFailed(
            f"the folder for compiled models cannot be made ({error.strerror}): set MILLIS_CACHE to a folder that can."
        ) from error
    return str(cache)


def _let_go(cache: Path | None) -> None:
    """Give back mapped pages that only loading needed: the cache's files, and the code that compiles.

    Of eight lengths of MiniLM-L6 int8 that is 90 MB of weights, packed elsewhere by now, and 22 MB of code. A page that
    is touched all the same comes back from the file; the first inferences, which warm a model anyway, touch theirs.
    """
    if sys.platform != "linux":
        return
    libc, dont_need, code = ctypes.CDLL(None), 4, str(Path(ov.__file__).parent)
    blobs = str(cache.resolve()) if cache is not None else None
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or "w" in fields[1]:
            continue
        is_blob = blobs is not None and fields[5].startswith(blobs) and fields[5].endswith(".blob")
        is_code = fields[5].startswith(code) and "x" in fields[1]  # without it are tables that relocation wrote
        if is_blob or is_code:
            start, end = (int(edge, 16) for edge in fields[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), dont_need)
