"""OpenVINO GenAI: continuous batching over paged keys and values, with the prefixes of prompts kept.

Token ids go in and out, so tokenizers are ours. Border: the one file that imports openvino_genai; reads
openvino_model.xml, openvino_model.bin and config.json.
Limits: CPU. The logarithm of the chosen piece's probability is all the engine tells of probabilities; without a
tokenizer of its own the engine cannot hold answers to a grammar.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millis.backends import openvino as _quiet  # noqa: F401  # before openvino, which it keeps from telling its maker
from millis.backends.generator import Ending, GeneratorSettings, Sampling, Step
from millis.backends.stepping import OpenAnswer, Stepping
from millis.cores import cpu_flags
from millis.errors import InvalidBundle

import openvino as ov  # isort: skip
import openvino_genai as genai  # isort: skip

_BLOCK_TOKENS = 32


class GenAiGenerator(Stepping):
    """See Generator."""

    name = "genai"

    def __init__(self) -> None:
        super().__init__()
        self._pipeline: Any = None
        self._handles: dict[OpenAnswer, Any] = {}
        self._n_asked = 0

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """Read the model and take all the memory that keys and values will ever have."""
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.num_kv_blocks = settings.streams * (settings.context // _BLOCK_TOKENS + 2)
        scheduler.max_num_seqs = settings.streams
        scheduler.max_num_batched_tokens = max(settings.context, 256)
        properties = {"INFERENCE_NUM_THREADS": settings.threads, "PERFORMANCE_HINT": "LATENCY"}
        if settings.threads == 1 and "amx_bf16" in cpu_flags():
            properties["INFERENCE_PRECISION_HINT"] = "f32"  # 2026.4's bf16 kernels for AMX divide by half the threads
        try:
            self._pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        except RuntimeError as error:
            said = str(error).strip().splitlines()[-1][:200]
            raise InvalidBundle(f"{folder.name} cannot be loaded by OpenVINO GenAI ({said}): make it anew.") from error
        self._thread.start()

    def close(self) -> None:
        """See Generator."""
        super().close()
        self._handles.clear()
        self._pipeline = None

    def _begin(self, answer: OpenAnswer) -> None:
        ids = ov.Tensor(np.array([answer.ids], np.int64))
        self._n_asked += 1
        self._handles[answer] = self._pipeline.add_request(self._n_asked, ids, _write_config(answer.sampling))

    def _step(self, answers: Sequence[OpenAnswer]) -> None:
        self._pipeline.step()
        for answer in answers:
            handle = self._handles[answer]
            while handle.can_read():
                for output in handle.read().values():
                    _tell(answer, output)
            if not answer.is_ended and handle.get_status() == genai.GenerationStatus.IGNORED:
                answer.tell(Step(id=None, ending="failed"))  # the engine ran out of blocks
            if answer.is_ended:
                del self._handles[answer]

    def _drop(self, answer: OpenAnswer) -> None:
        handle = self._handles.pop(answer, None)
        if handle is not None:
            handle.cancel()


def _tell(answer: OpenAnswer, output: Any) -> None:
    endings: dict[Any, Ending] = {
        genai.GenerationFinishReason.STOP: "stop", genai.GenerationFinishReason.LENGTH: "length",
    }  # fmt: skip
    ending = endings.get(output.finish_reason)
    pairs = list(zip(output.generated_ids, output.generated_log_probs, strict=True))
    for i, (piece, logprob) in enumerate(pairs):
        answer.tell(Step(id=int(piece), logprob=float(logprob), ending=ending if i == len(pairs) - 1 else None))
    if not pairs and ending is not None:
        answer.tell(Step(id=None, ending=ending))


def _write_config(sampling: Sampling) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens = sampling.max_tokens
    config.stop_token_ids = set(sampling.stop_ids)
    if sampling.stop_ids:
        config.eos_token_id = sampling.stop_ids[0]
    config.logprobs = int(sampling.has_logprobs)
    config.frequency_penalty = sampling.frequency_penalty
    config.presence_penalty = sampling.presence_penalty
    config.rng_seed = sampling.seed
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature, config.top_p = sampling.temperature, sampling.top_p
    return config
