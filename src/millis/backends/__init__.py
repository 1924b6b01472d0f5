"""Runtimes that turn arrays into arrays: openvino, onnxruntime, torch, static, and fake; and those that generate.

Border: knows token ids and logits, nothing of text, tasks or HTTP. Each library is imported in the one file named
after it. What every backend must do is in conformance.py.
"""

from millis.backends.backend import Backend, BackendSettings, Batch, Batching
from millis.registry import Registry

backends = Registry(
    "backend",
    {
        "fake": "millis.backends.fake:FakeBackend",
        "onnxruntime": "millis.backends.onnxruntime:OnnxRuntimeBackend",
        "openvino": "millis.backends.openvino:OpenVinoBackend",
        "static": "millis.backends.static:StaticBackend",
        "torch": "millis.backends.torch:TorchBackend",
    },
    extras={"onnxruntime": "onnxruntime", "torch": "train"},
)

generators = Registry(
    "generator",
    {
        "fake": "millis.backends.fake_generator:FakeGenerator",
        "genai": "millis.backends.genai:GenAiGenerator",
        "llamacpp": "millis.backends.llamacpp:LlamaCppGenerator",
        "vllm": "millis.backends.vllm:VllmGenerator",
    },
    extras={"genai": "llm", "llamacpp": "llamacpp"},
)

UNTESTED = frozenset({"vllm"})
"""Written from its documentation: no machine that millis was tested on can run it."""

KEPT_APART = frozenset({"genai"})
"""Generators that hold the interpreter's lock while they step; beside anything else they need apart.py."""

SHARES_STEPS = frozenset({"llamacpp"})
"""Generators that read a little of every prompt in each step; the others read one after the other, as they came."""

KEEPS_BLOCKS = frozenset({"genai"})
"""Where prefixes are kept: generators that keep blocks of prompts and answers, and forget what was used longest ago."""

__all__ = [
    "KEEPS_BLOCKS", "KEPT_APART", "SHARES_STEPS", "UNTESTED", "Backend", "BackendSettings", "Batch", "Batching",
    "backends", "generators",
]  # fmt: skip
