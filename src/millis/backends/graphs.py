"""CUDA graphs: every kernel of a batch launched at once, as it was recorded when the model was loaded.

A network of six layers is a hundred small kernels, and starting each from Python costs more than running it. A graph is
of one shape, so it is recorded for some numbers of rows at each static length; rows that are missing are filled up.
Border: shapes, buffers and filling up are plain; whatever needs a GPU stands in CudaRecorder. Knows no weights.
Limits: a shape that was not recorded is the caller's to run. Ran on one H200; elsewhere tests bring a recorder.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from millis.backends.backend import Batch, Batching

Compute = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""ids and mask, int64 (B, T), to float32 (B, R, C)."""

_WARM = 2
"""Runs before a recording: libraries choose their kernels and take their memory in them."""


class Shape(NamedTuple):
    """Rows and tokens of a batch."""

    rows: int
    tokens: int


class Recorder(Protocol):
    """Records what a device does, to do it again."""

    device: torch.device

    def make_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Give zeros in memory that the device can read and write by itself."""

    def record(self, compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """Give where the result stands, and what computes it anew out of whatever the inputs hold then."""

    def replay(self, recorded: "Recorded") -> None:
        """Copy host to inputs, compute, copy output to answer, and wait for it."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording of one shape.

    Args:
        host, inputs: ids and mask, int64 (2, B, T), in the process and on the device.
        answer, output: float32 (B, R, C), likewise.
        again: computes output out of inputs.
    """

    host: torch.Tensor
    inputs: torch.Tensor
    answer: torch.Tensor
    output: torch.Tensor
    again: Callable[[], None]


class Graphs:
    """Recordings of one network, by shape. Any number of threads may call `run`; one runs at a time.

    Args:
        compute: of the network, on the recorder's device.
        shapes: to record.
    Raises:
        RuntimeError: the network does what cannot be recorded.
    """

    def __init__(self, compute: Compute, *, shapes: Sequence[Shape], recorder: Recorder) -> None:
        self._recorder = recorder
        self._turn = threading.Lock()
        with torch.inference_mode():
            self._recorded = {shape: self._record(compute, shape) for shape in shapes}

    def run(self, batch: Batch) -> NDArray[np.float32] | None:
        """Give float32 (B, R, C) of a batch; None where no shape fits."""
        shape = find_shape(self._recorded, batch)
        if shape is None:
            return None
        recorded = self._recorded[shape]
        with self._turn, torch.inference_mode():
            fill(recorded.host.numpy(), batch)
            self._recorder.replay(recorded)
            answer: NDArray[np.float32] = recorded.answer[: len(batch["input_ids"])].numpy().copy()
        return answer

    def _record(self, compute: Compute, shape: Shape) -> Recorded:
        recorder = self._recorder
        host = recorder.make_host((2, *shape), torch.int64)
        host[1] = 1
        if shape.tokens > 1:
            host[1, :, -1] = 0  # a network may look for padding before it decides what to do about it
        inputs = host.to(recorder.device, copy=True)
        output, again = recorder.record(lambda: compute(inputs[0], inputs[1]))
        return Recorded(host, inputs, recorder.make_host(output.shape, output.dtype), output, again)


class CudaRecorder:
    """Records on a stream of its own; all recordings share their scratch memory, since one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def make_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See Recorder."""
        return torch.zeros(*shape, dtype=dtype, pin_memory=True)

    def record(self, compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.current_stream(self.device).synchronize()  # weights and inputs came by that one
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM):
                compute()
            self._stream.synchronize()
            # Of this thread alone: another one may serve, or load, meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            output = compute()
            graph.capture_end()
        return output, graph.replay

    def replay(self, recorded: Recorded) -> None:
        """See Recorder."""
        with torch.cuda.stream(self._stream):
            recorded.inputs.copy_(recorded.host, non_blocking=True)
            recorded.again()
            recorded.answer.copy_(recorded.output, non_blocking=True)
            self._stream.synchronize()


def plan_shapes(lengths: Sequence[int], *, batching: Batching) -> list[Shape]:
    """List what to record: rows doubled at each length, as far as batches go; the largest first, for the memory's sake.

    Args:
        lengths: static token counts.
    """
    rows = sorted({*(1 << power for power in range(batching.max_rows.bit_length())), batching.max_rows})
    shapes = [Shape(n, tokens) for tokens in lengths for n in rows if n == 1 or n * tokens <= batching.max_tokens]
    return sorted(shapes, key=lambda shape: shape.rows * shape.tokens, reverse=True)


def find_shape(shapes: Collection[Shape], batch: Batch) -> Shape | None:
    """Give the shape of the fewest rows that a batch fits into; None where there is none of its length."""
    n_rows, n_tokens = batch["input_ids"].shape
    return min((shape for shape in shapes if shape.tokens == n_tokens and shape.rows >= n_rows), default=None)


def fill(host: NDArray[np.int64], batch: Batch) -> None:
    """Write a batch, (B, T), into ids and mask, (2, B' >= B, T); rows too many are one token of padding."""
    n = len(batch["input_ids"])
    host[0, :n], host[1, :n] = batch["input_ids"], batch["attention_mask"]
    host[:, n:] = 0
    host[1, n:, 0] = 1  # attention to nothing is no number
