"""vLLM's half is missing here: a stand-in answers as its documentation says, so these tests hold our half only."""

import importlib
import queue
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millis.backends.generator import GeneratorSettings, Lookup, Sampling, Step
from millis.errors import InvalidRequest, InvalidValue


class _Engine:
    """Says its prompt backwards, one piece a step; ends by the stops that it was given."""

    def __init__(self, asked: Any) -> None:
        self.asked, self.open, self.aborted = asked, {}, []

    def add_request(self, name: str, prompt: dict[str, Any], params: Any) -> None:
        self.open[name] = (prompt["prompt_token_ids"][::-1], [], params)

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            self.open.pop(name, None)

    def step(self) -> list[Any]:
        outputs = []
        for name, (left, said, params) in list(self.open.items()):
            if left[len(said)] == 99:
                raise RuntimeError("out of memory")
            said.append(left[len(said)])
            reason = "stop" if said[-1] in params.stop_token_ids else "length" if len(said) == params.max_tokens else None
            piece = types.SimpleNamespace(logprob=-0.5)
            one = types.SimpleNamespace(
                token_ids=said[-1:], finish_reason=reason, logprobs=[{said[-1]: piece}] if params.logprobs is not None else None
            )
            outputs.append(types.SimpleNamespace(request_id=name, outputs=[one], finished=reason is not None))
            if reason:
                del self.open[name]
        return outputs


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    vllm: Any = types.ModuleType("vllm")
    vllm.EngineArgs = vllm.SamplingParams = types.SimpleNamespace
    vllm.LLMEngine = types.SimpleNamespace(from_engine_args=_Engine)
    platforms: Any = types.ModuleType("vllm.platforms")
    platforms.current_platform = types.SimpleNamespace(is_cuda=lambda: True)
    params: Any = types.ModuleType("vllm.sampling_params")
    params.RequestOutputKind = types.SimpleNamespace(DELTA=1)
    for name, one in (("vllm", vllm), ("vllm.platforms", platforms), ("vllm.sampling_params", params)):
        monkeypatch.setitem(sys.modules, name, one)
    monkeypatch.delitem(sys.modules, "millis.backends.vllm", raising=False)
    yield importlib.import_module("millis.backends.vllm")
    sys.modules.pop("millis.backends.vllm")


def _load(module: Any, **settings: Any) -> Any:
    one = module.VllmGenerator()
    one.load(Path("rung"), settings=GeneratorSettings(**{"device": "cuda", "context": 64, **settings}))
    return one


def _hear(one: Any, ids: list[int], **sampling: Any) -> list[Step]:
    steps: queue.Queue[Step] = queue.Queue()
    one.start(ids, sampling=Sampling(**{"max_tokens": 3, **sampling}), emit=steps.put)
    got = [steps.get(timeout=20)]
    while got[-1].ending is None:
        got.append(steps.get(timeout=20))
    return got


def test_answers_end_by_stop_and_by_length_and_after_a_failure_others_are_answered(module: Any) -> None:
    one = _load(module)
    assert [(step.id, step.ending) for step in _hear(one, [1, 2, 3, 4])] == [(4, None), (3, None), (2, "length")]
    stopped = _hear(one, [1, 2, 3, 4], stop_ids=(3,), has_logprobs=True)
    assert [(step.id, step.logprob, step.ending) for step in stopped] == [(4, -0.5, None), (3, -0.5, "stop")]
    assert _hear(one, [99])[-1].ending == "failed"
    assert len(_hear(one, [1, 2, 3])) == 3
    assert one._engine.asked.max_model_len == 64
    assert one._engine.asked.skip_tokenizer_init
    one.close()


def test_a_cancelled_answer_is_aborted(module: Any) -> None:
    one = _load(module)
    steps: queue.Queue[Step] = queue.Queue()
    answer = one.start([5] * 100_000, sampling=Sampling(max_tokens=10**6), emit=steps.put)
    steps.get(timeout=20)
    answer.cancel()
    _hear(one, [1, 2, 3])
    assert one._engine.aborted == ["1"]
    one.close()


def test_other_devices_lookup_and_grammars_are_refused(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValue, match="no device 'cpu' here: it runs on cuda"):
        _load(module, device="cpu")
    with pytest.raises(InvalidValue, match="no lookup"):
        _load(module, lookup=Lookup(guesses=2, ngram=3))
    with pytest.raises(InvalidRequest, match="cannot hold"):
        module.VllmGenerator().accept('root ::= "a"')
    monkeypatch.setattr(module, "current_platform", types.SimpleNamespace(is_cuda=lambda: False))
    with pytest.raises(InvalidValue, match="shows no NVIDIA GPU"):
        _load(module)
