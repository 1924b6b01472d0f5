"""Measure a layer table: build networks of many shapes, compile them as a rung would be, time them side by side.

Networks of which every layer kept one half at one size give the times of that half; whole networks of random shapes
give the residual, and others check the prediction. The weights are random: time does not ask what they mean.
Border: builds and times; the arithmetic is measuring/layers.py's. A table is kept in the user's cache by the machine's
fingerprint, the runtime and the sizes of the base, where its own checks say that it is right.
"""

import copy
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForTokenClassification

from millis.backends import Backend, BackendSettings, backends
from millis.backends.encoder import LayerShape, Part, find_parts, keep_layers, read_activation, shrink
from millis.bundles import Choice
from millis.compiling.onnx import export_embeddings, export_ids, second_of
from millis.compiling.openvino import convert_onnx
from millis.compressing.prune import sizes_of
from millis.compressing.quantize import quantize_onnx, quantize_openvino
from millis.errors import InvalidValue
from millis.measuring.fingerprint import fingerprint
from millis.measuring.layers import LayerTable, Timed, check_table, halves_of, learn_residual
from millis.models.taggers import Tagger
from millis.searching.remembering import make_key, recall, remember
from millis.telemetry.progress import bar, say

RUNTIMES = ("openvino-int8", "onnxruntime-int8", "openvino-fp32", "onnxruntime-fp32")

_VERSION = 6
_SHELF = "layers"
_N_TEACHING, _N_CHECKING = 5, 10
_LEAST_CHANNELS = 16  # a few cost nearly as much as many: half the time of 64 is calls
_ROWS = 64  # of the embedding table: looking one up costs the same in any
_ROUNDS, _WARM = 24, 4
_TRUSTED = 0.1
"""How far a table may be off in the middle to be kept: one that was measured beside others' work misleads every fit."""

_PAYS = 0.02
"""Of a layer's time: what another activation must save, since a network has to learn to live with it."""


def find_table(
    folder: Path, *, runtime: str, tokens: Sequence[int], is_static: bool, activation: str | None = None
) -> LayerTable:
    """Give the layer table of a tagger's base in a runtime on this machine, measured now where none is kept.

    Args:
        folder: the tagger, in Hugging Face layout; only its sizes count.
        tokens: token counts to measure at, ascending.
        is_static: compile for each token count, as a rung with buckets is.
        activation: inside the feed-forwards, None for the base's own.
    Raises:
        InvalidValue: a runtime that there is no way to build for.
    Cost: two minutes for six layers on two cores; nothing when it is found.
    """
    if runtime not in RUNTIMES:
        raise InvalidValue(f"no layer table can be measured for {runtime!r}: choose one of {', '.join(RUNTIMES)}.")
    config = _read_config(folder, activation=activation)
    told = [_VERSION, fingerprint().digest, runtime, list(tokens), is_static, _sizes_of_base(config)]
    key = make_key(told)
    table: LayerTable | None = recall(_SHELF, key, kind=LayerTable)
    if table is None:
        table = _measure(config, runtime=runtime, tokens=tuple(tokens), is_static=is_static)
        error = table.median_error()
        if error <= _TRUSTED:
            remember(_SHELF, key, value=table)
        else:
            say(f"this layer table is off by {100 * error:.0f} % in the middle: it is not kept for the next fit")
    return table


def choose_activation(
    asked: str, folder: Path, *, runtime: str, tokens: Sequence[int], is_static: bool, lengths: Sequence[int]
) -> tuple[str | None, Choice]:
    """Time one layer of a base with its own activation and with ReLU, and give what to use, None for its own.

    Args:
        asked: relu, or auto: ReLU only where the layer is faster by a fiftieth.
        lengths: token counts of the texts, whose mean time counts.
    """
    config = _read_config(folder)
    own, names = read_activation(config), (read_activation(config), "relu")
    config.num_hidden_layers = 1
    whole = [LayerShape(parts[0].n_units, parts[1].n_units) for parts in [find_parts(_draw(config))]]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        loaded = []
        for place, (shape, name) in enumerate([([], own), *((whole, name) for name in names)]):
            made = Path(scratch) / str(place)
            _build(_read_config(folder, activation=name), shape, runtime=runtime, folder=made)
            loaded.append(stack.enter_context(_loaded(made, runtime, tuple(tokens) if is_static else None)))
        times = np.array(time_in_turns(loaded, tokens)[0])
    own_ms, relu_ms = (
        float(np.interp(lengths, tokens, row - times[0]).mean()) for row in times[1:]
    )
    pays = relu_ms < (1 - _PAYS) * own_ms
    is_relu = own != "relu" and (asked == "relu" or pays)
    choice = Choice(
        what="activation", choice="relu" if is_relu else f"the base's own, {own}",
        reason=f"a layer in {runtime} takes {own_ms:.4f} ms with {own} and {relu_ms:.4f} with relu, mean over the texts"
        f" of train: relu {'pays' if pays else 'saves nothing that counts'}"
        + (", and was asked for" if asked == "relu" else ""),
    )  # fmt: skip
    return ("relu" if is_relu else None), choice


def _read_config(folder: Path, *, activation: str | None = None) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if activation is not None:
        setattr(config, "activation" if config.model_type == "distilbert" else "hidden_act", activation)
    config.vocab_size = max(_ROWS, (config.pad_token_id or 0) + 1)
    return config


def _sizes_of_base(config: Any) -> list[Any]:
    keys = ("model_type", "hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers", "num_labels",
            "dim", "n_heads", "hidden_dim", "n_layers", "hidden_act", "activation")  # fmt: skip
    return [getattr(config, key, None) for key in keys]


def _measure(config: Any, *, runtime: str, tokens: tuple[int, ...], is_static: bool) -> LayerTable:
    network = _draw(config)
    parts = find_parts(network)
    n_layers, whole = len(parts) // 2, LayerShape(parts[0].n_units, parts[1].n_units)
    heads, channels = (_thin_out(sizes_of(part)[1:]) for part in parts[:2])
    channels = sorted({_LEAST_CHANNELS, *channels})
    uniform = [LayerShape(size, 0) for size in heads] + [LayerShape(0, size) for size in channels]
    teaching = [(whole,) * n_layers, *_random_shapes(whole, n_layers=n_layers, n=_N_TEACHING, seed=1)]
    checking = _random_shapes(whole, n_layers=n_layers, n=_N_CHECKING, seed=2)
    shapes = [(), (LayerShape(0, 0),) * n_layers, *((shape,) * n_layers for shape in uniform), *teaching, *checking]
    say(f"measuring the layers of this base in {runtime}: {len(shapes)} networks")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        loaded: list[Backend] = []
        with bar("layer table", total=len(shapes)) as advance:
            for done, shape in enumerate(shapes, 1):
                folder = Path(scratch) / str(done)
                _build(config, shape, runtime=runtime, folder=folder)
                loaded.append(stack.enter_context(_loaded(folder, runtime, tokens if is_static else None)))
                advance(done, "")
        warm, cold = time_in_turns(loaded, tokens)

    def tabulate(measured: Times, name: str) -> LayerTable:
        times = iter(measured)
        bare_ms, rest_ms = next(times), next(times)
        halves = [
            halves_of(
                [(size, next(times)) for size in sizes], rest_ms=rest_ms, n_layers=n_layers,
                whole_bytes=_count_bytes(part),
            )
            for sizes, part in zip((heads, channels), parts[:2], strict=True)
        ]
        table = LayerTable(
            runtime=name, n_layers=n_layers, tokens=tokens, rest_ms=rest_ms,
            norms_ms=tuple(max(ms - bare, 0.0) / n_layers for ms, bare in zip(rest_ms, bare_ms, strict=True)),
            heads=halves[0], channels=halves[1],
            extra_ms=(0.0,) * len(tokens), scale=(1.0,) * len(tokens),
        )  # fmt: skip
        table = learn_residual(table, [Timed(shape, next(times)) for shape in teaching])
        return check_table(table, [Timed(shape, next(times)) for shape in checking])

    return msgspec.structs.replace(tabulate(warm, runtime), cold=tabulate(cold, f"{runtime}, cold"))


def _thin_out(sizes: Sequence[int]) -> list[int]:
    """Keep the smallest, then every other, and the largest: between them the times lie on a line, near enough."""
    return sorted({sizes[0], *sizes[-1::-2]})


def _draw(config: Any) -> Any:
    """Make a network with random weights, and a configuration of its own."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return AutoModelForTokenClassification.from_config(
            copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32
        ).eval()


def _random_shapes(
    whole: LayerShape, *, n_layers: int, n: int, seed: int
) -> list[tuple[LayerShape, ...]]:
    """Draw shapes of every size between nearly nothing and nearly all; channels in vectors of 16."""
    chance = np.random.default_rng(seed)
    shapes = []
    for share in np.linspace(0.15, 0.95, n):
        drawn = np.clip(chance.normal(share, 0.25, (n_layers, 2)), 0, 1)
        shapes.append(
            tuple(
                LayerShape(round(float(heads) * whole.heads), 16 * round(float(channels) * whole.channels / 16))
                for heads, channels in drawn
            )
        )
    return shapes


def _build(config: Any, shape: Sequence[LayerShape], *, runtime: str, folder: Path) -> None:
    """Make a network of this shape, with as many of the base's layers, as a rung is made."""
    network = _draw(config)
    keep_layers(network, range(len(shape)))
    shrink(network, shape)
    build_to_time(Tagger(network), runtime=runtime, folder=folder)


def build_to_time(tagger: Tagger, *, runtime: str, folder: Path) -> None:
    """Write a network into folder/fp32, and folder/int8 for that, as a rung is made but calibrated on next to nothing.

    Args:
        tagger: ready to run, with plain attention.
    """
    backend, _, precision = runtime.partition("-")
    plain = folder / "fp32"
    plain.mkdir(parents=True, exist_ok=True)
    with redirect_stderr(io.StringIO()):  # the quantiser's bars, four for each network
        if backend == "openvino":
            embedded = plain / "embedded.onnx"
            table = export_embeddings(tagger, embedded)
            convert_onnx(embedded, plain, table=table.numpy(), second=second_of(tagger))
            if precision == "int8":
                quantize_openvino(plain, folder / "int8", calibration=[np.full(16, 1 + i) for i in range(2)])
        else:
            export_ids(tagger, plain / "model.onnx")
            if precision == "int8":
                quantize_onnx(plain, folder / "int8")


@contextmanager
def _loaded(folder: Path, runtime: str, buckets: tuple[int, ...] | None) -> Iterator[Backend]:
    name, _, precision = runtime.partition("-")
    backend: Backend = backends[name]()
    backend.load(folder / precision, settings=BackendSettings(buckets=buckets))
    try:
        yield backend
    finally:
        backend.close()


Times = list[tuple[float, ...]]
"""ms of each network, by token count."""


def time_in_turns(loaded: Sequence[Backend], tokens: Sequence[int]) -> tuple[Times, Times]:
    """Give the median ms of each network at each token count; all take turns, so the machine's drift hits all.

    Returns:
        of a second run right behind a first, and of the first, which finds the caches full of the others.
    """
    ones = [np.ones((1, length), np.int64) for length in tokens]
    batches = [{"input_ids": one, "attention_mask": one} for one in ones]
    seen = np.empty((2, _ROUNDS, len(loaded), len(tokens)))
    for turn in range(-_WARM, _ROUNDS):
        for j, batch in enumerate(batches):  # outside: a network of any length would find the last length's weights
            for i, backend in enumerate(loaded):
                began = perf_counter_ns()
                backend.run(batch)  # its weights come into the near cache, as back to back they are
                between = perf_counter_ns()
                backend.run(batch)
                if turn >= 0:
                    seen[:, turn, i, j] = (perf_counter_ns() - between) / 1e6, (between - began) / 1e6
    warm, cold = ([tuple(map(float, row)) for row in times] for times in np.median(seen, axis=1))
    return warm, cold


def _count_bytes(part: Part) -> int:
    """Count the bytes of a part's weights in int8."""
    return sum(matrix.weight.numel() for matrix in (*part.into, part.out))
