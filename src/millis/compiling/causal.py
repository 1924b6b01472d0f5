"""A causal language model of torch to OpenVINO IR with its keys and values kept inside (stateful), as GenAI wants it.

Torch is traced with the keys and values of the past as inputs and the grown ones as outputs; the pairs then become the
model's state, and a gather by beam_idx stands in front of each, which the engine's paged attention looks for.
Border: writes openvino_model.xml, openvino_model.bin, config.json.
Source: the form is that of optimum-intel's exports (openvino/stateful.py); built here with OpenVINO's own passes, since
optimum-intel wants an older transformers.
Limits: attention by SDPA; the mask is causal, within a context in which no layer slides.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from millis.backends import openvino as _quiet  # noqa: F401  # before openvino, which it keeps from telling its maker
from millis.compiling.writing import writing
from millis.models.quiet import quietly

FILE = "openvino_model.xml"
_FIRST = ("input_ids", "attention_mask", "position_ids")


class _Past:
    """Keys and values that grow by concatenation: what a trace of attention can follow."""

    is_compileable = False

    def __init__(self, past: tuple[torch.Tensor, ...]) -> None:
        self._past = past
        self.grown: list[torch.Tensor] = list(past)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        at = slice(2 * layer_idx, 2 * layer_idx + 2)
        self.grown[at] = [torch.cat(pair, dim=-2) for pair in zip(self._past[at], (keys, values), strict=True)]
        return tuple(self.grown[at])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self._past[0].shape[-2])


class _Step(torch.nn.Module):
    """The model with its past as plain inputs, (B, H, T, D) each, and its mask written out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = _Past(past)
        queries = torch.arange(input_ids.shape[1])[:, None] + past[0].shape[2]
        seen = torch.arange(attention_mask.shape[1])[None, :] <= queries
        mask = torch.where(seen[None, None] & attention_mask[:, None, None, :].bool(), 0.0, -1e30)
        both: Any = mask
        if self.model.config.model_type == "gemma3_text":
            both = {"full_attention": mask, "sliding_attention": mask}
        out = self.model(
            input_ids=input_ids, attention_mask=both, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        return (out.logits, *cache.grown)


def convert_causal(model: Any) -> Any:
    """Give the OpenVINO model of a torch model, fp32, its past inside.

    Args:
        model: a causal language model of transformers, in evaluation mode.
    """
    import openvino as ov
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    config = model.config
    n_heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    n_past, n_new = 4, 3
    past = [torch.randn(2, n_heads, n_past, width) for _ in range(2 * config.num_hidden_layers)]
    example = (
        torch.randint(0, config.vocab_size, (2, n_new)), torch.ones(2, n_past + n_new, dtype=torch.int64),
        torch.arange(n_past, n_past + n_new).repeat(2, 1), *past,
    )  # fmt: skip
    with torch.no_grad(), quietly():
        made = ov.convert_model(_Step(model).eval(), example_input=example)
    kept = [f"past_key_values.{i}.{what}" for i in range(config.num_hidden_layers) for what in ("key", "value")]
    shapes = {}
    for port, name in zip(made.inputs, (*_FIRST, *kept), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        shapes[port] = [-1, -1] if name in _FIRST else [-1, n_heads, -1, width]
    pairs = {name: name.replace("past_key_values", "present") for name in kept}
    for port, name in zip(made.outputs, ("logits", *pairs.values()), strict=True):
        port.get_tensor().set_names({name})
    made.reshape(shapes)
    _reorder_by_beam(made, kept)
    apply_make_stateful_transformation(made, pairs)
    batch = ops.gather(ops.shape_of(made.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0))
    empty = ops.concat([batch, ops.constant(np.array([n_heads, 0, width], np.int64))], 0)
    for op in made.get_ops():
        if op.get_type_name() == "ReadValue":  # what the state is before the first token: nothing
            op.set_arguments([ops.broadcast(ops.constant(0.0, dtype=ov.Type.f32), empty)])
    made.validate_nodes_and_infer_types()
    return made


def save_causal(made: Any, folder: Path, *, config: str) -> None:
    """Write a model's IR and the config.json that the engine reads.

    Raises:
        RunFailed: the folder cannot be written; it is gone then.
    """
    import openvino as ov

    with writing(folder):
        folder.mkdir(exist_ok=True)
        ov.save_model(made, folder / FILE, compress_to_fp16=False)
        (folder / "config.json").write_text(config, "utf-8")


def run_stateful(made: Any, ids: NDArray[np.int64], *, n_first: int) -> NDArray[np.float32]:
    """Run ids (T,) as serving does, the first n_first at once and the others one by one: logits (T, V)."""
    import openvino as ov

    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    request = ov.Core().compile_model(made, "CPU", exact).create_infer_request()
    cuts = [0, *range(n_first, len(ids) + 1)]
    logits = []
    for low, high in itertools.pairwise(cuts):
        out = request.infer(_feed(ids, low, high))
        logits.append(out["logits"][0].copy())
    return np.concatenate(logits)


def feed_first(ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Give the inputs of ids (T,) that come at once, after nothing."""
    return _feed(ids, 0, len(ids))


def _feed(ids: NDArray[np.int64], low: int, high: int) -> dict[str, NDArray[Any]]:
    return {
        "input_ids": ids[None, low:high], "attention_mask": np.ones((1, high), np.int64),
        "position_ids": np.arange(low, high)[None], "beam_idx": np.zeros(1, np.int32),
    }  # fmt: skip


def run_source(model: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Run the torch model over ids (T,) at once: logits (T, V)."""
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.from_numpy(ids)[None]).logits[0].float().numpy()
    return logits


def _reorder_by_beam(made: Any, kept: list[str]) -> None:
    import openvino as ov
    from openvino import opset13 as ops

    beam = ops.parameter([-1], ov.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    made.add_parameters([beam])
    for name in kept:
        past = made.input(name).get_node()
        readers = list(past.output(0).get_target_inputs())
        gathered = ops.gather(past, beam, ops.constant(0))
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
