"""Whose turn it is at a generator, how long until the next one comes, and how long pieces take.

Border: times in, times out; it runs no engine and refuses nobody but who waited too long.
Limits: steps are those of engines on CPUs; one that reads more at once is predicted too late.
"""

import asyncio
import math
from time import perf_counter_ns

from millis.backends.generator import STEP_TOKENS
from millis.errors import InvalidRequest

DEADLINE_PASSED = "deadline-passed"
_LEAST_READ = 16
"""Tokens of a prompt that says how long each takes; in a shorter one the step is all there is to see."""
_LEARN = 0.1
"""Weight of the newest observation in what is predicted."""


class Forecast:
    """How long a step takes, and reading each token of a prompt besides.

    Attributes:
        seen_ns: when it last learnt something, or was doubted.
    """

    def __init__(self) -> None:
        self.prefill_ns = self.step_ns = 0.0
        self.seen_ns = 0

    def observe(self, *, n_prompt: int, first_ns: float | None, step_ns: float | None) -> None:
        """Learn from an answer.

        Args:
            first_ns: to its first piece; None where others' prompts were read first.
            step_ns: of each later piece; None where there was none.
        """
        self.seen_ns = perf_counter_ns()
        if step_ns is not None:
            self.step_ns = _blend(self.step_ns, step_ns)
        if first_ns is not None and n_prompt >= _LEAST_READ:
            self.prefill_ns = _blend(self.prefill_ns, max(first_ns - self._steps_ns(n_prompt), 0) / n_prompt)

    def first_ns(self, n_prompt: int) -> float:
        """Predict the time to the first piece."""
        return self._steps_ns(n_prompt) + self.prefill_ns * n_prompt

    def _steps_ns(self, n_prompt: int) -> float:
        return self.step_ns * max(math.ceil(n_prompt / STEP_TOKENS), 1)


class Turn:
    """An answer's turn.

    Attributes:
        n_left: pieces that may still come.
        until_ns: when it ends at the latest, on the clock of perf_counter_ns; infinite where nothing says.
        n_unread: tokens of its prompt, which are read until its first piece comes.
        since_ns: when the engine began to read them; None before.
        is_first: was no other prompt being read when its turn came?
    """

    def __init__(self, *, n_left: int, until_ns: float, n_unread: int) -> None:
        self.n_left, self.until_ns, self.n_unread = n_left, until_ns, n_unread
        self.since_ns: int | None = None
        self.is_first = False


class Turns:
    """Lets so many answers be written at once, and the others in the order in which they came.

    Args:
        is_shared: does the engine read a little of every prompt in each step, not one after the other?
    Attributes:
        n_waiting: answers whose turn has not come.
    """

    def __init__(self, n_slots: int, *, is_shared: bool = False) -> None:
        self._n_slots, self.n_waiting, self._is_shared = n_slots, 0, is_shared
        self._slots = asyncio.Semaphore(n_slots)
        self._open: list[Turn] = []
        self._unread: list[Turn] = []
        self._gap_ns = 0.0
        self._full_ns = 0

    async def take(self, *, n_pieces: int, n_unread: int, until_ns: float) -> Turn:
        """Wait for a turn, and have it until it is given back.

        Args:
            n_pieces: most that the answer may have.
            n_unread: tokens of its prompt that the engine has to read.
            until_ns: when it is too late to begin, and the answer ends.
        Raises:
            InvalidRequest: 504, the turn did not come in time.
        """
        turn = Turn(n_left=n_pieces, until_ns=until_ns, n_unread=n_unread)
        self._unread.append(turn)
        self.n_waiting += 1
        try:
            async with before(until_ns):
                await self._slots.acquire()
        except (TimeoutError, asyncio.CancelledError) as error:
            self._unread.remove(turn)
            if isinstance(error, TimeoutError):
                raise passed() from error
            raise
        finally:
            self.n_waiting -= 1
        self._open.append(turn)
        turn.is_first = self._unread[0] is turn
        self._read_on()
        if self._is_full():
            self._full_ns = perf_counter_ns()
        return turn

    def give_back(self, turn: Turn) -> None:
        """Let the next one have it."""
        if self._is_full():
            self._gap_ns = _blend(self._gap_ns, perf_counter_ns() - self._full_ns)
        self.hear(turn)
        self._open.remove(turn)
        self._slots.release()

    def hear(self, turn: Turn) -> None:
        """Take note that its prompt is read, or will not be."""
        if turn in self._unread:
            self._unread.remove(turn)
            self._read_on()

    def _read_on(self) -> None:
        if self._unread and self._unread[0] in self._open and self._unread[0].since_ns is None:
            self._unread[0].since_ns = perf_counter_ns()

    def wait_ns(self, n_prompt: int, *, forecast: Forecast) -> float:
        """Predict how long a prompt of so many tokens that comes now waits: for a slot, and for prompts before it."""
        behind_ns = forecast.first_ns(self._count_ahead(n_prompt, forecast) + n_prompt) - forecast.first_ns(n_prompt)
        return max(self._slot_ns(forecast.step_ns), behind_ns)

    def _count_ahead(self, n_prompt: int, forecast: Forecast) -> int:
        """Count the tokens of others' prompts that are still to be read before the last of these."""
        left = [turn.n_unread for turn in self._unread]
        if self._is_shared:
            return sum(min(n, n_prompt) for n in left)
        if left and self._unread[0].since_ns is not None:
            read_ns = perf_counter_ns() - self._unread[0].since_ns
            left[0] = math.ceil(left[0] * max(1 - read_ns / max(forecast.first_ns(left[0]), 1), 0))
        return sum(left)

    def _slot_ns(self, step_ns: float) -> float:
        """Predict how long who comes now waits for a slot.

        A slot comes free as often as it did of late; where none has for longer, as often as that says. Nobody who has
        one goes on beyond the last piece that it may have, or its deadline.
        """
        place = self.n_waiting - (self._n_slots - len(self._open))  # of who comes now, among those who find none free
        if place < 0 or not self._open:
            return 0.0
        now = perf_counter_ns()
        ends_ns = sorted(max(min(one.n_left * step_ns, one.until_ns - now), 0) for one in self._open)
        n_rounds, i = divmod(place, len(ends_ns))
        latest_ns = ends_ns[i] + n_rounds * ends_ns[-1]
        if self._gap_ns == 0:
            return latest_ns
        gap_ns = max(self._gap_ns, now - self._full_ns) if self._is_full() else self._gap_ns
        return min((place + 1) * gap_ns, latest_ns)

    def _is_full(self) -> bool:
        return len(self._open) == self._n_slots


def before(until_ns: float) -> asyncio.Timeout:
    """Bound what is done within by a time on the clock of perf_counter_ns, which may be infinite."""
    return asyncio.timeout(None if math.isinf(until_ns) else (until_ns - perf_counter_ns()) / 1e9)


def passed() -> InvalidRequest:
    """Give the error of who got no piece before its deadline."""
    return InvalidRequest(
        "the deadline came before the first piece of an answer: allow more, or ask again when fewer answers are open.",
        status=504, slug=DEADLINE_PASSED,
    )  # fmt: skip


def _blend(known: float, seen: float) -> float:
    return seen if known == 0 else known + _LEARN * (seen - known)
