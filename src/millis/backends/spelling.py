"""What OpenVINO GenAI has to know of a vocabulary to hold answers to a grammar: the bytes of each piece, and the end.

The engine reads the bytes out of a detokenizer's graph. This writes one from our own tokenizer's pieces, so that
bundles need no second tokenizer, special pieces spell nothing, and ids that only pad the vocabulary are never chosen.
Border: the one file that imports openvino_tokenizers; writes openvino_detokenizer.xml and config.json, and for trials
openvino_model.xml: one layer of attention over nothing, which finds every piece as likely as every other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millis.backends import openvino as _quiet  # noqa: F401  # before openvino, which it keeps from telling its maker

import openvino as ov  # isort: skip
from openvino import opset13 as ops  # isort: skip

_WIDTH = 16


def write_spelling(folder: Path, pieces: Sequence[bytes], *, end_id: int) -> None:
    """Write a folder that the engine reads as a tokenizer.

    Args:
        pieces: bytes of each id, as many as the model has logits.
    """
    from openvino_tokenizers import _get_factory

    ends = np.cumsum([len(one) for one in pieces], dtype=np.int32)
    begins = np.concatenate([np.zeros(1, np.int32), ends[:-1]])
    table = [ops.constant(one) for one in (begins, ends, np.frombuffer(b"".join(pieces), np.uint8))]
    make = _get_factory().create
    ids = ops.parameter([-1, -1], ov.Type.i64)
    words = make("VocabDecoder", [ops.convert(ids, "i32"), *table], {"skip_tokens": []})
    text = make("FuzeRagged", words.outputs()[:4])
    out = make("StringTensorPack", [*text.outputs(), words.output(4)])
    made = ov.Model([ops.result(out)], [ids], "spelling")
    ov.save_model(made, folder / "openvino_detokenizer.xml", compress_to_fp16=False)
    (folder / "config.json").write_text(f'{{"eos_token_id": {end_id}, "vocab_size": {len(pieces)}}}', "utf-8")


def write_indifferent(folder: Path, *, n_pieces: int) -> None:
    """Write a model that costs nothing, in the form that compiling/causal.py gives."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    kinds = {"input_ids": ov.Type.i64, "attention_mask": ov.Type.i64, "position_ids": ov.Type.i64}
    inputs = {name: ops.parameter([-1, -1], kind, name=name) for name, kind in kinds.items()}
    inputs["beam_idx"] = ops.parameter([-1], ov.Type.i32, name="beam_idx")
    places = ops.unsqueeze(ops.convert(inputs["position_ids"], "f32"), ops.constant([1, 3]))
    new = ops.multiply(places, ops.constant(np.zeros((1, 1, 1, _WIDTH), np.float32)))
    pairs, grown = {}, []  # new is (B, 1, T, D)
    for what in ("key", "value"):
        past = ops.parameter([-1, 1, -1, _WIDTH], ov.Type.f32, name=f"past_key_values.0.{what}")
        inputs[f"past_key_values.0.{what}"] = past
        kept = ops.gather(past, inputs["beam_idx"], ops.constant(0))
        grown.append(ops.concat([kept, new], 2))
        pairs[f"past_key_values.0.{what}"] = f"present.0.{what}"
    mask = ops.multiply(ops.convert(inputs["attention_mask"], "f32"), ops.constant(np.float32(0)))
    seen = ops.scaled_dot_product_attention(new, *grown, ops.unsqueeze(mask, ops.constant([1, 2])))
    heads = ops.squeeze(seen, ops.constant([1]))
    logits = ops.matmul(heads, ops.constant(np.zeros((_WIDTH, n_pieces), np.float32)), False, False)
    results: dict[str, Any] = {"logits": logits, **dict(zip(pairs.values(), grown, strict=True))}
    for names in (inputs, results):
        for name, node in names.items():
            node.output(0).get_tensor().set_names({name})
    made = ov.Model([ops.result(one) for one in results.values()], list(inputs.values()), "indifferent")
    apply_make_stateful_transformation(made, pairs)
    batch = ops.gather(ops.shape_of(inputs["input_ids"], output_type="i64"), ops.constant([0]), ops.constant(0))
    nothing = ops.broadcast(ops.constant(np.float32(0)), ops.concat([batch, ops.constant([1, 0, _WIDTH])], 0))
    for op in made.get_ops():
        if op.get_type_name() == "ReadValue":
            op.set_arguments([nothing])
    made.validate_nodes_and_infer_types()
    ov.save_model(made, folder / "openvino_model.xml", compress_to_fp16=False)
