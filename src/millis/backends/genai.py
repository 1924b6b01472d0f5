"""OpenVINO GenAI: continuous batching over paged keys and values, with the prefixes of prompts kept.

Token ids go in and out, so tokenizers are ours; what the engine must know of the vocabulary for grammars is written
for it (spelling.py). A step that raises leaves its requests in the engine, where every later step raises too: the
pipeline is made anew then.
Border: the one file that imports openvino_genai; reads openvino_model.xml, openvino_model.bin and config.json.
Limits: CPU. The logarithm of the chosen piece's probability is all the engine tells of probabilities.
"""

import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millis.backends import openvino as _quiet  # noqa: F401  # before openvino, which it keeps from telling its maker
from millis.backends.generator import BLOCK_TOKENS, STEP_TOKENS, Ending, GeneratorSettings, Sampling, Step, no_grammars
from millis.backends.spelling import write_spelling
from millis.backends.stepping import OpenAnswer, Stepping
from millis.backends.trial import Trial
from millis.cores import cpu_flags
from millis.errors import InvalidBundle, InvalidValue

import openvino as ov  # isort: skip
import openvino_genai as genai  # isort: skip

MOST_GRAMMARS = 500
"""That the engine has compiled; it forgets none (0.2 MB each), so after these it is made anew when it is idle."""


_LEAST_TEMPERATURE = 1e-6
"""Below it the likeliest piece is certain; what is nothing in single precision the engine refuses."""


class GenAiGenerator(Stepping):
    """See Generator."""

    name = "genai"

    def __init__(self) -> None:
        super().__init__()
        self._pipeline: Any = None
        self._handles: dict[OpenAnswer, Any] = {}
        self._n_asked = 0
        self._trial: Trial | None = None
        self._compiled: set[str] = set()
        self._prefix: tuple[int, ...] = ()
        self._touch: OpenAnswer | None = None
        self._n_blocks = 0

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """Read the model and take all the memory that keys and values will ever have."""
        if settings.device != "cpu":
            raise InvalidValue(f"genai has no device {settings.device!r} here: it runs on cpu.")
        self._folder, self._settings = folder, settings
        n_kept = len(settings.prefix) // BLOCK_TOKENS if settings.keeps_prefixes else 0
        self._prefix = settings.prefix[: n_kept * BLOCK_TOKENS]
        self._n_blocks = settings.streams * (settings.context // BLOCK_TOKENS + 2) + (n_kept + 2 if n_kept else 0)
        if settings.pieces is not None:
            n_pieces = _count_logits(folder, n_pieces=len(settings.pieces))
            padding = [b""] * (n_pieces - len(settings.pieces))
            self._spelling = tempfile.TemporaryDirectory(prefix="millis-spelling-")
            write_spelling(Path(self._spelling.name), [*settings.pieces, *padding], end_id=settings.end_id)
            self._trial = Trial(Path(self._spelling.name), n_pieces=n_pieces)
        try:
            self._pipeline = self._make()
        except RuntimeError as error:
            said = str(error).strip().splitlines()[-1][:200]
            raise InvalidBundle(f"{folder.name} cannot be loaded by OpenVINO GenAI ({said}): make it anew.") from error
        self._thread.start()

    def accept(self, grammar: str) -> None:
        """See Generator."""
        if self._trial is None:
            raise no_grammars()
        self._trial.accept(grammar)

    def close(self) -> None:
        """See Generator."""
        super().close()
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
        self._end_pipeline()
        if self._trial is not None:
            self._trial.close()
            self._spelling.cleanup()

    def _make(self) -> Any:
        settings = self._settings
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = settings.keeps_prefixes
        scheduler.num_kv_blocks = self._n_blocks
        scheduler.max_num_seqs = settings.streams + bool(self._prefix)
        n_pieces = 1 + (settings.lookup.guesses if settings.lookup is not None else 0)
        scheduler.max_num_batched_tokens = STEP_TOKENS + settings.streams * n_pieces
        properties: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": settings.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # whatever is served beside it needs cores too: docs/decisions/0039
        }
        if settings.keeps_float32 or (settings.threads == 1 and "amx_bf16" in cpu_flags()):
            properties["INFERENCE_PRECISION_HINT"] = "f32"  # 2026.4's bf16 for AMX divides by half the threads
        if settings.lookup is not None:
            properties["prompt_lookup"] = True
        if self._trial is None:
            return genai.ContinuousBatchingPipeline(self._folder, scheduler, "CPU", properties)
        tokenizer = genai.Tokenizer(self._spelling.name)
        return genai.ContinuousBatchingPipeline(self._folder, tokenizer, scheduler, "CPU", **properties)

    def _renew(self) -> None:
        self._compiled.clear()
        self._end_pipeline()  # before the new one: there may be no room for two
        with contextlib.suppress(RuntimeError):  # without a pipeline the next step raises, and it is tried again
            self._pipeline = self._make()

    def _end_pipeline(self) -> None:
        """Free it; a step lets go of what cancelled answers hold, else it prints that blocks have leaked."""
        with contextlib.suppress(RuntimeError):  # of a step that raised before
            if self._pipeline is not None and self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        self._pipeline = None

    def _begin(self, answer: OpenAnswer) -> None:
        if answer.sampling.grammar is not None:
            if len(self._compiled) >= MOST_GRAMMARS and not self._handles:
                self._renew()
            self._compiled.add(answer.sampling.grammar)
        if self._prefix:
            self._touch_prefix(answer)
        self._ask(answer)

    def _ask(self, answer: OpenAnswer) -> None:
        ids = ov.Tensor(np.array([answer.ids], np.int64))
        self._n_asked += 1
        config = _write_config(answer.sampling)
        if self._settings.lookup is not None:
            config.num_assistant_tokens = self._settings.lookup.guesses
            config.max_ngram_size = self._settings.lookup.ngram
        self._handles[answer] = self._pipeline.add_request(self._n_asked, ids, config)

    def _touch_prefix(self, answer: OpenAnswer) -> None:
        """Use the prefix whenever another prompt begins, since the engine forgets what was used longest ago.

        What is open needs no more blocks until then than there are unused ones that it would forget before. One at
        a time: two that read the prefix at once would each keep blocks of it.
        """
        is_touched = self._touch is not None and not self._touch.is_ended
        if not is_touched and answer.ids[: len(self._prefix)] != self._prefix:
            touch = OpenAnswer((*self._prefix, 0), sampling=Sampling(max_tokens=1), emit=lambda step: None)
            self._ask(touch)
            self._open.append(touch)
            self._touch = touch

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


def _count_logits(folder: Path, *, n_pieces: int) -> int:
    """Read how many logits a model has, which may be more than its tokenizer has pieces."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return max(int(config.get("vocab_size") or n_pieces), n_pieces)


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
    if sampling.grammar is not None:
        config.structured_output_config = genai.StructuredOutputConfig(grammar=sampling.grammar)
    config.do_sample = sampling.temperature >= _LEAST_TEMPERATURE
    if config.do_sample:
        config.temperature, config.top_p = sampling.temperature, sampling.top_p
    return config
