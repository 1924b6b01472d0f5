"""What stops an answer that grows, seen from the event loop, on a generator that says its prompt again."""

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec
import pytest

from making import forge
from millis.backends.fake_generator import FakeGenerator
from millis.backends.generator import GeneratorSettings, Sampling
from millis.bundles import open_bundle
from millis.errors import InvalidRequest, RunFailed
from millis.serving.generating import Talker, load_talker
from millis.serving.growing import Part
from millis.serving.kept import Kept
from millis.serving.turns import Forecast, Turns
from millis.tasks.chat import Stops
from millis.tasks.sentences import end_of_sentence
from speaking import make_echo_bundle

SLACK_NS = 100_000_000
"""A machine that does other work wakes late."""


class _Slow(FakeGenerator):
    """Lets as many steps through as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)

    def _step(self, answers: Any) -> None:
        if not self._is_closing:
            self.gate.acquire()
        super()._step(answers)


def _talk(folder: Path, generator: FakeGenerator, *, streams: int = 4, **more: str) -> Talker:
    talker = Talker(make_echo_bundle(folder, **more), generator, streams=streams)
    generator.load(folder, settings=GeneratorSettings())
    return talker


def _run(work: Callable[[], Coroutine[Any, Any, None]], talker: Talker, generator: Any) -> None:
    try:
        asyncio.run(work())
    finally:
        if isinstance(generator, _Slow):
            generator.gate.release(1000)
        talker.close()


def _say(talker: Talker, text: str, **more: Any) -> AsyncGenerator[Part, None]:
    ids = talker.chat.encode(text)
    return talker.answer(ids, sampling=Sampling(max_tokens=len(ids)), **{"stops": (), **more})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two. Thr", "One. Two."), ("Pi is 3.14 or so", ""), ("It is 3.5. Not", "It is 3.5."), ('"Go!" he', '"Go!"'), ("a\nb", "a\n"),
        ("1. Go", ""), ("Do this. 2. Go", "Do this."), ("Do this:\n1. Go", ""), ("\n\nGo", ""), ("Dear all,\n\nwe", ""), ("It was 1984. We", "It was 1984."),
        ("Mr. Smith met Dr. Jones", ""), ("It is, e.g. here", ""), ("At 5 p.m. in the U.S. he", ""), ("Ask J. Doe", ""), ("No. I", "No."),
        ("他来了。她走", "他来了。"), ("“他来了。”她说", "“他来了。”"), ("真的吗？！我", "真的吗？！"), ("我……不", ""), ("你好!世界", "你好!"), ("他来了.然后", "他来了."),
        ("步骤：\n1. 先", ""), ("版本3.5", ""), ("そうです。でも", "そうです。"), ("نعم؟ لا", "نعم؟"), ("हाँ। नहीं", "हाँ।"),
    ],
)  # fmt: skip
def test_last_whole_sentence_is_found(text: str, sentence: str) -> None:
    assert text[: end_of_sentence(text)] == sentence


def test_text_that_may_be_a_stop_waits() -> None:
    stops = Stops(["END", "\n\n"])
    assert stops.add("the E") == ("the ", False)
    assert stops.add("Nough\n") == ("ENough", False)
    assert stops.add("x E") == ("\nx ", False)
    assert stops.add("ND more") == ("", True)


def test_deadline_ends_an_answer_after_its_last_whole_sentence(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator)

    async def work() -> None:
        generator.gate.release(len("It works. And th"))
        deadline_ns = perf_counter_ns() + 300_000_000
        parts = [part async for part in _say(talker, "It works. And then more comes.", deadline_ns=deadline_ns)]
        assert perf_counter_ns() < deadline_ns + SLACK_NS
        assert parts[0].text == "It works."
        assert parts[-1].ending == "deadline"
        assert "".join(part.text for part in parts) == "It works."
        assert parts[-1].is_whole

    _run(work, talker, generator)


def test_deadline_before_the_first_sentence_ends_gives_what_there_is_and_says_so(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator)

    async def work() -> None:
        generator.gate.release(8)
        answer = _say(talker, "It works. And more.", deadline_ns=perf_counter_ns() + 200_000_000)
        (part,) = [part async for part in answer]
        assert (part.text, part.ending, part.is_whole) == ("It works", "deadline", False)

    _run(work, talker, generator)


def test_the_forecast_learns_from_answers_that_a_deadline_ended(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator)

    async def work() -> None:
        generator.gate.release(8)
        async for _ in _say(talker, "It works. And more.", deadline_ns=perf_counter_ns() + 200_000_000):
            pass
        assert talker.forecast.seen_ns > 0
        assert 0 < talker.forecast.step_ns < 200_000_000 / 7

    _run(work, talker, generator)


def test_a_question_of_one_piece_says_nothing_of_long_prompts(tmp_path: Path) -> None:
    talker = _talk(tmp_path, FakeGenerator())
    talker.forecast = Forecast()
    talker.forecast.observe(n_prompt=100, first_ns=1.1e8, step_ns=1e7)
    before = talker.forecast.first_ns(100)
    for _ in range(100):  # health asks so
        talker.forecast.observe(n_prompt=1, first_ns=1.2e7, step_ns=None)
    assert talker.forecast.first_ns(100) == before == pytest.approx(1.1e8)
    talker.close()


def test_a_forecast_of_a_busy_hour_is_doubted_once_a_second_while_nobody_asks(tmp_path: Path) -> None:
    talker = _talk(tmp_path, FakeGenerator())
    talker.forecast.observe(n_prompt=100, first_ns=1e12, step_ns=1e7)

    def ask(left_ns: float = 3e8) -> None:
        talker.admit([1] * 100, n_answers=1, left_ns=left_ns)

    with pytest.raises(InvalidRequest, match="is predicted to take"):
        ask()  # it was just seen
    talker.forecast.seen_ns -= 2_000_000_000
    with pytest.raises(InvalidRequest, match="is predicted to take"):
        ask(1e6)  # hopeless, whatever is predicted
    talker.n_answers = 1
    with pytest.raises(InvalidRequest, match="is predicted to take"):
        ask()  # it would be at others' expense
    talker.n_answers = 0
    ask()
    with pytest.raises(InvalidRequest, match="is predicted to take"):
        ask()
    talker.close()


def test_client_that_leaves_stops_the_engine_within_a_step(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator)

    async def work() -> None:
        answer = _say(talker, "a long prompt that goes on and on")
        generator.gate.release(3)
        for _ in range(3):
            await anext(answer)
        await answer.aclose()
        assert talker.n_answers == 0
        generator.gate.release(100)
        while generator._open:
            await asyncio.sleep(0)
        assert generator.n_steps <= 4

    _run(work, talker, generator)


def test_event_loop_goes_on_while_the_engine_steps(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator)

    async def work() -> None:
        waiting = asyncio.ensure_future(anext(_say(talker, "x")))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not waiting.done()
        generator.gate.release(10)
        assert (await waiting).text == "x"

    _run(work, talker, generator)


def test_answers_beyond_the_streams_wait_and_too_many_are_refused(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator, streams=1)

    async def work() -> None:
        async def collect(text: str) -> str:
            return "".join([part.text async for part in _say(talker, text)])

        both = asyncio.gather(collect("one"), collect("two"))
        while talker.n_answers < 2:
            await asyncio.sleep(0)
        assert len(generator._open) + len(generator._new) <= 1
        with pytest.raises(InvalidRequest, match="ask again") as caught:
            talker.admit([1], n_answers=67, left_ns=float("inf"))
        assert caught.value.status == 503
        generator.gate.release(100)
        assert await both == ["one", "two"]

    _run(work, talker, generator)


def test_what_is_kept_read_of_a_prompt_is_not_predicted(tmp_path: Path) -> None:
    generator = FakeGenerator()
    talker = _talk(tmp_path, generator, system="Answer in a word. " * 6)
    mine, other = (
        talker.chat.encode_messages([*system, {"role": "user", "content": "tide?"}])
        for system in ((), ({"role": "system", "content": "Answer in two words. " * 6},))
    )
    assert 0 <= len(mine) - talker.count_unread(mine) - 32 * 3 < 32  # whole blocks of it
    assert talker.count_unread(other) == len(other)
    talker.forecast.observe(n_prompt=100, first_ns=1e8, step_ns=None)
    talker.admit(mine, n_answers=1, left_ns=6e6 + 1e6 * (len(mine) - 96))
    with pytest.raises(InvalidRequest, match=f"reading {len(other)} of the"):
        talker.admit(other, n_answers=1, left_ns=6e6 + 1e6 * (len(mine) - 96))
    talker.close()


def test_deadline_holds_for_who_waits_too_and_the_slot_is_not_lost(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator, streams=1)

    async def work() -> None:
        first = _say(talker, "one")
        begun = asyncio.ensure_future(anext(first))
        while not generator._open:
            await asyncio.sleep(0)
        deadline_ns = perf_counter_ns() + 50_000_000
        with pytest.raises(InvalidRequest, match="before the first piece") as caught:
            await anext(_say(talker, "two", deadline_ns=deadline_ns))
        assert (caught.value.status, caught.value.slug) == (504, "deadline-passed")
        assert perf_counter_ns() < deadline_ns + SLACK_NS
        generator.gate.release(100)
        assert (await begun).text == "o"
        await first.aclose()
        assert (await anext(_say(talker, "three"))).text == "t"

    _run(work, talker, generator)


def test_who_cannot_have_a_turn_in_time_is_refused_at_once(tmp_path: Path) -> None:
    generator = _Slow()
    talker = _talk(tmp_path, generator, streams=2)

    async def work() -> None:
        talker.forecast.observe(n_prompt=1, first_ns=1e7, step_ns=1e7)
        answers = [
            talker.answer([1, 2], sampling=Sampling(max_tokens=n), stops=(), deadline_ns=deadline_ns)
            for n, deadline_ns in ((100, float("inf")), (10**6, perf_counter_ns() + 3e9))
        ]
        tasks = [asyncio.ensure_future(anext(one)) for one in answers]
        while talker.n_answers < 2:
            await asyncio.sleep(0)
        with pytest.raises(InvalidRequest, match="a turn behind others is predicted to come in 1000 ms") as caught:
            talker.admit([1], n_answers=1, left_ns=4e8)
        assert (caught.value.status, caught.value.slug) == (503, "would-be-late")
        assert caught.value.headers == ((b"retry-after", b"1"),)
        talker.admit([1], n_answers=1, left_ns=1.2e9)  # the first has its last piece by then
        tasks.append(asyncio.ensure_future(anext(_say(talker, "x"))))
        while talker.n_answers < 3:
            await asyncio.sleep(0)
        with pytest.raises(InvalidRequest, match=r"predicted to come in 2\d{3} ms") as caught:
            talker.admit([1], n_answers=1, left_ns=4e8)  # now the second's deadline is waited for
        assert caught.value.headers == ((b"retry-after", b"3"),)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert talker.n_answers == 0
        talker.admit([1], n_answers=1, left_ns=4e8)

    _run(work, talker, generator)


def test_turns_that_come_often_are_waited_for_whatever_answers_may_have(tmp_path: Path) -> None:
    generator = FakeGenerator()
    talker = _talk(tmp_path, generator, streams=1)

    async def work() -> None:
        talker.forecast.observe(n_prompt=1, first_ns=1e7, step_ns=1e7)
        for _ in range(3):  # none takes what it may have
            assert [part async for part in talker.answer([7], sampling=Sampling(max_tokens=10**5, stop_ids=(7,)), stops=())]
        begun = talker.answer([1, 2], sampling=Sampling(max_tokens=10**5), stops=())
        await anext(begun)
        talker.admit([1], n_answers=1, left_ns=2e9)
        await begun.aclose()

    _run(work, talker, generator)


def test_a_long_prompt_is_predicted_by_the_steps_that_it_takes(tmp_path: Path) -> None:
    bundle, ids, off = make_echo_bundle(tmp_path, context=2048, pause_ms=10), [1] * 1000, []
    for _ in range(3):  # a machine that stalls while steps are timed foresees too much
        talker = load_talker(bundle)
        with pytest.raises(InvalidRequest, match="reading 1,000 of the"):
            talker.admit(ids, n_answers=1, left_ns=7e7)  # of 8 steps
        off.append(asyncio.run(_measure_error(talker, ids)))
        talker.close()
        if off[-1] < 0.3:
            break
    assert min(off) < 0.3, off


async def _measure_error(talker: Talker, ids: list[int]) -> float:
    """Give by what share of it the first piece of an answer misses its prediction."""
    predicted_ns, began = talker.forecast.first_ns(len(ids)), perf_counter_ns()
    await anext(talker.answer(ids, sampling=Sampling(max_tokens=1), stops=()))
    return abs(perf_counter_ns() - began - predicted_ns) / predicted_ns


def test_prompts_ahead_are_counted_to_the_reading_of_ones_own(tmp_path: Path) -> None:
    talker = load_talker(make_echo_bundle(tmp_path, context=2048, pause_ms=10))
    long, short = [1] * 1500, [2] * 64  # 12 steps, and 1

    async def read(ids: list[int], left_ns: float) -> float:
        began = perf_counter_ns()
        talker.admit(ids, n_answers=1, left_ns=left_ns)
        said = talker.answer(
            ids, sampling=Sampling(max_tokens=10**3), stops=(), deadline_ns=perf_counter_ns() + left_ns
        )
        async with aclosing(said):
            await anext(said)
        return perf_counter_ns() - began

    async def work() -> None:
        before = talker.forecast.first_ns(64)
        reading = asyncio.ensure_future(read(long, float("inf")))
        while not talker.n_answers:
            await asyncio.sleep(0)
        with pytest.raises(InvalidRequest, match=r"a turn behind others is predicted to come in \d{3} ms") as caught:
            talker.admit(short, n_answers=1, left_ns=6e7)
        assert (caught.value.status, caught.value.slug) == (503, "would-be-late")
        assert caught.value.headers == ((b"retry-after", b"1"),)
        took_ns = await read(short, 1e9)
        assert took_ns > 6e7
        await reading
        assert talker.forecast.first_ns(64) < 2 * before  # its wait says nothing of how long 64 tokens take
        talker.admit(short, n_answers=1, left_ns=6e7)  # nothing is ahead any more

    _run(work, talker, None)


@pytest.mark.parametrize(("is_shared", "waits_ms"), [(False, (2500, 1500, 500, 0)), (True, (200, 200, 100, 0))])
def test_of_prompts_ahead_what_is_left_is_waited_for(is_shared: bool, waits_ms: tuple[int, ...]) -> None:
    forecast, turns = Forecast(), Turns(4, is_shared=is_shared)
    forecast.observe(n_prompt=100, first_ns=1e9, step_ns=None)  # 10 ms a token

    def wait_ms() -> float:
        return turns.wait_ns(10, forecast=forecast) / 1e6

    async def work() -> None:
        first, second = [await turns.take(n_pieces=9, n_unread=n, until_ns=math.inf) for n in (200, 50)]
        seen = [wait_ms()]
        assert first.since_ns is not None
        first.since_ns -= 1_000_000_000  # the half of it is read
        seen.append(wait_ms())
        turns.hear(first)
        seen.append(wait_ms())
        turns.give_back(second)  # it left before its first piece
        assert [*seen, wait_ms()] == [pytest.approx(one, abs=50) for one in waits_ms]

    asyncio.run(work())


def test_engine_that_fails_tells_whoever_waits_and_goes_on(tmp_path: Path) -> None:
    generator = FakeGenerator()
    talker = _talk(tmp_path, generator)

    async def work() -> None:
        with pytest.raises(RunFailed):
            await anext(talker.answer([], sampling=Sampling(max_tokens=2), stops=()))  # the fake divides by its length
        assert (await anext(_say(talker, "on"))).text == "o"

    _run(work, talker, generator)


def test_what_a_chat_said_before_is_not_predicted_again(tmp_path: Path) -> None:
    kept = Kept(8)  # of which six are counted on
    first = list(range(100))
    kept.add(first)
    assert [kept.count(one) for one in (first, [*first, 7], first[:64], first[:65], [1, *first])] == [96, 96, 32, 64, 0]
    kept.add(range(200, 296))
    assert [kept.count([*one, 7]) for one in (first, range(200, 296))] == [96, 96]
    kept.add([*first, *range(40)])  # of four blocks; what was used longest ago goes, from its end
    assert [kept.count([*one, 7]) for one in ([*first, *range(40)], range(200, 296))] == [128, 64]
    kept.clear()
    assert kept.count(first) == 0


def test_a_chats_earlier_turns_count_as_read_until_the_engine_fails(tmp_path: Path) -> None:
    generator, bundle = FakeGenerator(), make_echo_bundle(tmp_path)
    forge(bundle, rungs=[msgspec.to_builtins(msgspec.structs.replace(bundle.rung(), backend="genai"))])
    talker = Talker(open_bundle(bundle.path), generator)  # an engine that keeps blocks, as far as the talker knows
    generator.load(bundle.path, settings=GeneratorSettings())
    asked = talker.chat.encode_messages([{"role": "user", "content": "How high is the tide today, and when does it turn?"}])

    async def work() -> None:
        talker.forecast.observe(n_prompt=100, first_ns=1e8, step_ns=None)
        said = [part async for part in talker.answer(asked, sampling=Sampling(max_tokens=9), stops=())]
        read = [*asked, *(piece.id for part in said for piece in part.pieces)][:-1]
        then = [*read, *talker.chat.encode(" And tomorrow, and the day after that?")]
        n_unread = len(then) - len(read) // 32 * 32
        assert talker.count_unread(then) == n_unread < len(then) - 32
        talker.admit(then, n_answers=1, left_ns=6e6 + 1e6 * n_unread)
        with pytest.raises(InvalidRequest, match=f"reading {len(then) + 1} of the"):
            talker.admit([1, *then], n_answers=1, left_ns=6e6 + 1e6 * n_unread)
        with pytest.raises(RunFailed):
            await anext(talker.answer([], sampling=Sampling(max_tokens=2), stops=()))
        assert talker.count_unread(then) == len(then)

    _run(work, talker, generator)
