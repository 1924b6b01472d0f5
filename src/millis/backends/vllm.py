"""vLLM: a folder in Hugging Face layout as it came, on an NVIDIA GPU. UNTESTED: written from its documentation.

No machine that millis was tested on has both vLLM and a GPU. Its engine is stepped on our thread (LLMEngine), is given
ids and gives ids; tokenizer and template are ours.
Border: the one file that imports vllm; the import works without a GPU, loading does not.
Limits: one GPU. No grammars (they want vLLM's own tokenizer), no lookup; prefixes are kept as long as there is room,
and none is read again for its own sake.
Source: docs.vllm.ai, v0.17 to v0.32, vllm.v1.engine.llm_engine and vllm.SamplingParams.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millis.backends.generator import Ending, GeneratorSettings, Sampling, Step, no_grammars
from millis.backends.stepping import OpenAnswer, Stepping
from millis.errors import InvalidBundle, InvalidValue

import vllm  # isort: skip
from vllm.platforms import current_platform  # isort: skip
from vllm.sampling_params import RequestOutputKind  # isort: skip

_ENDINGS: dict[str | None, Ending | None] = {None: None, "stop": "stop", "length": "length"}


class VllmGenerator(Stepping):
    """See Generator."""

    name = "vllm"

    def __init__(self) -> None:
        super().__init__()
        self._engine: Any = None
        self._answers: dict[str, OpenAnswer] = {}
        self._n_asked = 0

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """Read the model, and take the GPU's memory that vLLM takes by its own rule."""
        if settings.device != "cuda":
            raise InvalidValue(f"vllm has no device {settings.device!r} here: it runs on cuda.")
        if not current_platform.is_cuda():
            raise InvalidValue("vllm has no device 'cuda' here: this machine shows no NVIDIA GPU. Serve another rung.")
        if settings.lookup is not None:
            raise InvalidValue("vllm has no lookup: leave it out, or serve the rung on genai.")
        if settings.keeps_float32:
            raise InvalidValue("vllm chooses its arithmetic itself: leave keeps_float32 out, or serve on genai.")
        asked = vllm.EngineArgs(
            model=str(folder), skip_tokenizer_init=True, max_model_len=settings.context,
            max_num_seqs=settings.streams, enable_prefix_caching=settings.keeps_prefixes, disable_log_stats=True,
        )  # fmt: skip
        try:
            self._engine = vllm.LLMEngine.from_engine_args(asked)
        except (RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or ["no reason given"])[-1][:200]
            raise InvalidBundle(f"{folder.name} cannot be loaded by vLLM ({said}): make it anew.") from error
        self._thread.start()

    def accept(self, grammar: str) -> None:
        """See Generator."""
        raise no_grammars()

    def close(self) -> None:
        """See Generator."""
        super().close()
        self._answers.clear()
        self._engine = None

    def _begin(self, answer: OpenAnswer) -> None:
        self._n_asked += 1
        name = str(self._n_asked)
        self._answers[name] = answer
        self._engine.add_request(name, {"prompt_token_ids": list(answer.ids)}, _write_params(answer.sampling))

    def _step(self, answers: Sequence[OpenAnswer]) -> None:
        for output in self._engine.step():
            answer = self._answers.get(output.request_id)
            if answer is None:
                continue  # cancelled since
            _tell(answer, output.outputs[0])
            if output.finished:
                del self._answers[output.request_id]
                answer.tell(Step(id=None, ending="failed"))  # unless it was told of another end

    def _drop(self, answer: OpenAnswer) -> None:
        names = [name for name, one in self._answers.items() if one is answer]
        for name in names:
            del self._answers[name]
        if names:
            with contextlib.suppress(Exception):  # an engine that is dead has nothing to stop
                self._engine.abort_request(names)

    def _renew(self) -> None:
        """Nothing: every open answer was aborted, and an engine that is dead cannot be made anew here."""


def _tell(answer: OpenAnswer, output: Any) -> None:
    """Tell what is new of an answer; nothing or several pieces may have come."""
    ids = list(output.token_ids)
    ending = _ENDINGS.get(output.finish_reason, "failed")
    for i, piece in enumerate(ids):
        logprob = output.logprobs[i][piece].logprob if output.logprobs else 0.0
        answer.tell(Step(id=piece, logprob=logprob, ending=ending if i == len(ids) - 1 else None))
    if not ids and ending is not None:
        answer.tell(Step(id=None, ending=ending))


def _write_params(sampling: Sampling) -> Any:
    return vllm.SamplingParams(
        max_tokens=sampling.max_tokens, stop_token_ids=list(sampling.stop_ids), ignore_eos=True,
        temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed,
        frequency_penalty=sampling.frequency_penalty, presence_penalty=sampling.presence_penalty,
        logprobs=0 if sampling.has_logprobs else None, detokenize=False, output_kind=RequestOutputKind.DELTA,
    )  # fmt: skip
