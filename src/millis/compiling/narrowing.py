"""A trained tagger as the files of backend torch: its own numbers, or each in half the bits.

Border: a tagger's folder in, a folder of config.json and model.safetensors out; the caller compares.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from millis.compiling.writing import writing

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def narrow(source: Path, folder: Path, *, precision: str) -> None:
    """Write a tagger's folder with its floats in a precision of PRECISIONS, which its config.json then names.

    Raises:
        RunFailed: the folder cannot be written; it is gone then.
    """
    dtype = PRECISIONS[precision]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(source / "model.safetensors")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        named = {**config, "dtype": str(dtype).removeprefix("torch.")}
        (folder / "config.json").write_text(json.dumps(named, indent=2, sort_keys=True), encoding="utf-8")
        narrowed = {name: one.to(dtype) if one.is_floating_point() else one for name, one in tensors.items()}
        save_file(narrowed, folder / "model.safetensors", metadata={"format": "pt"})
