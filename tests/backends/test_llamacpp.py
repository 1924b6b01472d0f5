"""llama.cpp says what torch says, whoever else asks and whatever was read before."""

import queue
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="pip install 'millis[llamacpp]', which compiles llama.cpp")

from millis.backends.generator import STEP_TOKENS, GeneratorSettings, Lookup, Sampling, Step
from millis.backends.llamacpp import LlamaCppGenerator
from millis.errors import InvalidBundle, InvalidValue
from speaking import make_speaker, write_gguf


class Counting(LlamaCppGenerator):
    """Keeps what each step read: how many ids of each sequence."""

    fails_next = False

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[int]] = []

    def _decode(self, parts: Any) -> list[int]:
        if self.fails_next:
            self.fails_next = False
            raise RuntimeError("out of luck")
        self.steps.append([len(ids) for _, ids in parts])
        return super()._decode(parts)

    @property
    def n_read(self) -> int:
        return sum(map(sum, self.steps))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("llamacpp")
    (place / "rung").mkdir()
    write_gguf(make_speaker(place / "source"), place / "rung" / "model.gguf")
    return place


def _load(base: Path, **settings: Any) -> Counting:
    one = Counting()
    one.load(base / "rung", settings=GeneratorSettings(**{"context": 256, **settings}))
    return one


def _ask(one: LlamaCppGenerator, ids: Sequence[int], **sampling: Any) -> "queue.Queue[Step]":
    steps: queue.Queue[Step] = queue.Queue()
    one.start(ids, sampling=Sampling(**{"max_tokens": 12, **sampling}), emit=steps.put)
    return steps


def _hear(steps: "queue.Queue[Step]") -> list[Step]:
    got = [steps.get(timeout=20)]
    while got[-1].ending is None:
        got.append(steps.get(timeout=20))
    return got


def _ids(steps: "queue.Queue[Step]") -> list[int | None]:
    return [step.id for step in _hear(steps)]


def _prompts() -> list[list[int]]:
    draw = random.Random(3)
    first = draw.choices(range(256), k=100)
    return [first, [*first[:70], 1, 2, 3], draw.choices(range(256), k=5), first[:50], draw.choices(range(256), k=180)]


def test_answers_alone_and_together_are_those_of_torch(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base / "source").eval()
    want = []
    for ids in _prompts():
        said: list[int] = []
        for _ in range(12):
            with torch.no_grad():
                said.append(int(model(torch.tensor([[*ids, *said]])).logits[0, -1].argmax()))
        want.append(said)
    one = _load(base, streams=3)  # fewer than ask at once
    assert [_ids(_ask(one, ids)) for ids in _prompts()] == want
    assert [_ids(steps) for steps in [_ask(one, ids) for ids in _prompts()]] == want
    step = _hear(_ask(one, _prompts()[0], has_logprobs=True))[0]
    with torch.no_grad():
        exact = torch.log_softmax(model(torch.tensor([_prompts()[0]])).logits[0, -1], 0)[want[0][0]]
    assert step.logprob == pytest.approx(float(exact), abs=0.02)
    one.close()


def test_a_prompt_begins_where_any_other_was(base: Path) -> None:
    one = _load(base)
    first = _prompts()[0]
    _hear(_ask(one, first, max_tokens=1))
    asked = [
        ([*first, 7, 8], 2), (first, 1), ([*first[:30], 5], 1),  # of little, a copy is taken
        (first, 1), ([*first[:90], 5], 1),  # of most, it is cut off there
        (first, 10), ([9, *first], 101),
    ]  # fmt: skip
    for ids, n_new in asked:
        before = one.n_read
        _hear(_ask(one, ids, max_tokens=1))
        assert one.n_read - before == n_new
    one.close()
    forgets = _load(base, keeps_prefixes=False)
    for _ in range(2):
        _hear(_ask(forgets, first, max_tokens=1))
    assert forgets.n_read == 200
    forgets.close()


def test_the_prefix_stays_read_whatever_others_ask(base: Path) -> None:
    draw = random.Random(4)
    prefix = tuple(draw.choices(range(256), k=70))
    one = _load(base, streams=1, prefix=prefix)
    assert one.n_read == 64  # whole blocks
    for _ in range(5):
        _hear(_ask(one, draw.choices(range(256), k=200), max_tokens=40))
        before = one.n_read
        _hear(_ask(one, [*prefix, 1, 2], max_tokens=1))
        assert one.n_read - before == 8
    one.close()


def test_a_long_prompt_lets_others_speak(base: Path) -> None:
    one = _load(base, context=4096)
    talking = _ask(one, [1, 2, 3], max_tokens=100)
    for _ in range(3):
        talking.get(timeout=20)
    _hear(_ask(one, random.Random(5).choices(range(256), k=1000), max_tokens=1))
    mixed = [step for step in one.steps if len(step) == 2]
    assert len(mixed) >= 1000 // STEP_TOKENS
    assert all(sum(step) <= STEP_TOKENS for step in mixed)
    assert all(1 in step for step in mixed)  # a piece of the other's answer in each
    one.close()


def test_a_cancelled_prompt_is_read_no_further(base: Path) -> None:
    one = _load(base, context=4096)
    steps: queue.Queue[Step] = queue.Queue()
    answer = one.start([1, 2] * 1500, sampling=Sampling(max_tokens=5), emit=steps.put)
    answer.cancel()
    _hear(_ask(one, [3], max_tokens=1))
    assert one.n_read < 1500
    assert steps.empty()
    one.close()


def test_an_answer_ends_where_the_context_does(base: Path) -> None:
    one = _load(base, context=64)
    got = _hear(_ask(one, [1] * 60, max_tokens=100))
    assert len(got) == 4
    assert got[-1].ending == "length"
    assert _hear(_ask(one, [1] * 64))[0].ending == "failed"
    one.close()


def test_memory_suffices_whatever_comes_and_goes(base: Path) -> None:
    draw = random.Random(6)
    one = _load(base, context=64, streams=3, prefix=tuple(range(40)))
    for _ in range(12):
        heads = [[*range(draw.randint(0, 40))], draw.choices(range(256), k=draw.randint(1, 30))]
        prompts = [[*draw.choice(heads), *draw.choices(range(256), k=draw.randint(1, 20))] for _ in range(5)]
        answers = [_ask(one, ids, max_tokens=100) for ids in prompts]
        for ids, steps in zip(prompts, answers, strict=True):
            got = _hear(steps)
            assert (len(got), got[-1].ending) == (64 - len(ids), "length")
    one.close()


def test_a_step_that_raises_fails_its_answers_and_no_later_one(base: Path) -> None:
    one = _load(base, prefix=tuple(range(40)))
    want = _ids(_ask(one, [*range(40), 7]))
    one.fails_next = True
    assert _hear(_ask(one, [*range(40), 7]))[-1].ending == "failed"
    assert _ids(_ask(one, [*range(40), 7])) == want
    one.close()


def test_what_it_cannot_do_is_refused(base: Path) -> None:
    with pytest.raises(InvalidValue, match="no lookup"):
        _load(base, lookup=Lookup(guesses=2, ngram=3))
    with pytest.raises(InvalidBundle, match=r"model\.gguf is missing"):
        LlamaCppGenerator().load(base, settings=GeneratorSettings())


@pytest.mark.parametrize("n_bytes", [0, 100, 20_000])
def test_a_truncated_file_is_refused(base: Path, tmp_path: Path, n_bytes: int) -> None:
    (tmp_path / "model.gguf").write_bytes((base / "rung" / "model.gguf").read_bytes()[:n_bytes])
    with pytest.raises(InvalidBundle, match=r"cannot be loaded by llama\.cpp \(.+\)"):
        LlamaCppGenerator().load(tmp_path, settings=GeneratorSettings())
