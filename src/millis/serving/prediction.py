"""How long a ladder's rungs will take, and how far such a prediction may be trusted.

A prediction begins as the certificate's times by length, or as what warming up took where there are none, and is
corrected by what requests take: alone, and by how much more each one ahead delays them, while others are read and
refused; both at the median, since a machine's stalls are nobody's turn. What it is still off by is followed at KEPT of
cases, which hardly depends on how many are ahead: a promise keeps that much distance to its deadline.
Border: numbers; it runs nothing and decides nothing.
Source: percentiles are followed as in Robbins & Monro 1951, A Stochastic Approximation Method: up by a large step
when a promise was late, down by a small one when it was not.
"""

from bisect import bisect_left
from collections.abc import Sequence
from operator import itemgetter

from millis.bundles import Rung
from millis.bundles.together import split

KEPT = 0.993
"""Share of promises that are to be kept; between the 98.5 and 99.9 % that a useful promise keeps."""

_OVERHEAD_NS = 300_000.0
"""Of an answer beside the network's run, before any was seen: parse, tokenize, decode, write."""

_FOLLOW = 0.05
_STEP = 0.1
_STEP_LATE = 0.02
_MORE_CAREFUL = 0.1
_FORGET = 0.002
_SPEEDS = (0.2, 20.0)


class Forecast:
    """Predicts for the rungs of one ladder, in nanoseconds.

    Args:
        rungs: as the bundle says, most accurate first.
        warm_ns: by rung, token count and time of an inference, ascending, as warming up took; used where a rung has no
            table. Tokens are those of the whole batch, padding included, where the rung runs many windows at once.
    Attributes:
        margin_ns: how much sooner than its deadline a predicted end must be.
        caution: how much of that, 0 to 1, counts against requests that named no deadline and have others ahead: as
            much as it takes to keep KEPT of what they are promised. To refuse them is a miss too.
        overhead_ns: of an answer beside the network's run.
        late_ns: by how much an answer ends later than its needs say where nobody is ahead; below 0 it ends sooner.
        slip_ns: by how much each one ahead delays it more than by what that one needs.
        speed: how many times as long as usual the network takes at present.
        tokens_per_byte: of the bodies of late, their JSON included; 0 before any was seen.
    """

    def __init__(self, rungs: Sequence[Rung], *, warm_ns: Sequence[Sequence[tuple[int, float]]]) -> None:
        self._times = [
            [(row.tokens, 1e6 * row.p50_ms) for row in rung.latency] or list(warm)
            for rung, warm in zip(rungs, warm_ns, strict=True)
        ]
        self._rows = [rung.rows for rung in rungs]
        self._together = [
            [(row.tokens, 1e6 * row.rows_ms) for row in rung.latency if row.rows_ms]
            or [(tokens, rung.rows * ns) for tokens, ns in times]
            for rung, times in zip(rungs, self._times, strict=True)
        ]
        self._is_stepped = [rung.buckets is not None for rung in rungs]
        self.speed, self.tokens_per_byte, self.caution = 1.0, 0.0, 0.0
        self.overhead_ns, self.late_ns, self.slip_ns = _OVERHEAD_NS, 0.0, 0.0
        spreads = [1e6 * (row.p99_ms - row.p50_ms) for rung in rungs[:1] for row in rung.latency]
        self.margin_ns = max(spreads, default=1e6)

    def run_ns(self, rung: int, lengths: Sequence[int]) -> float:
        """Predict the network's time on windows, or batches, of these token counts."""
        return self.speed * sum(self.usual_ns(rung, n) for n in lengths)

    def text_ns(self, rung: int, lengths: Sequence[int]) -> float:
        """Predict the network's time on the windows of one text that are left, in their order, together or alone."""
        if self._rows[rung] == 1:
            return self.run_ns(rung, lengths)
        together, alone = split(lengths, rows=self._rows[rung])
        return self.speed * sum(self.usual_ns(rung, n, is_together=True) for n in together) + self.run_ns(rung, alone)

    def least_ns(self, rung: int) -> float:
        """Predict the shortest answer that a rung can give."""
        return self.speed * self._times[rung][0][1] + self.overhead_ns

    def n_tokens_of(self, n_bytes: int) -> int:
        """Predict how many tokens a body of this size has, before anybody reads it; at least one."""
        return max(int(n_bytes * self.tokens_per_byte), 1)

    def body_ns(self, rung: int, n_bytes: int) -> float:
        """Predict the network's time on a body of this size, before anybody reads it."""
        n, rows = self.n_tokens_of(n_bytes), self._rows[rung]
        longest = self._times[rung][-1][0]
        if rows == 1 or n < rows * longest:
            return self.run_ns(rung, [n])
        return self.speed * self.usual_ns(rung, n // rows, is_together=True)

    def observe_run(self, rung: int, n_tokens: int, *, ns: float, is_together: bool = False) -> None:
        """Learn from one inference."""
        seen = ns / self.usual_ns(rung, n_tokens, is_together=is_together)
        lowest, highest = _SPEEDS
        self.speed += _FOLLOW * (min(max(seen, lowest), highest) - self.speed)

    def observe_overhead(self, ns: float) -> None:
        """Learn what an answer took beside the run."""
        self.overhead_ns += _FOLLOW * (ns - self.overhead_ns)

    def observe_length(self, n_bytes: int, n_tokens: int) -> None:
        """Learn how long a body's texts were; what was answered without cutting it, as from a cache, says nothing."""
        if not n_tokens:
            return
        seen = n_tokens / n_bytes
        self.tokens_per_byte += (_FOLLOW if self.tokens_per_byte else 1.0) * (seen - self.tokens_per_byte)

    def observe_end(self, late_ns: float, *, n_ahead: float | None = None) -> None:
        """Learn from a request that was admitted: how much later than predicted it ended, or would have.

        Args:
            n_ahead: in line, a lane; None where there was no line.
        """
        least_ns = self.least_ns(-1)
        step_ns = _STEP_LATE * least_ns * _balance(late_ns > 0, share=0.5)
        if n_ahead:
            self.slip_ns = max(self.slip_ns + step_ns / n_ahead, 0.0)
        elif n_ahead is not None:
            self.late_ns += step_ns
        self.margin_ns = max(self.margin_ns + _STEP * least_ns * _balance(late_ns > self.margin_ns), 0.0)

    def observe_promise(self, *, is_kept: bool) -> None:
        """Learn whether a request that named no deadline was in time, or for those ahead of it was not."""
        self.caution = min(max(self.caution + _MORE_CAREFUL * _balance(not is_kept), 0.0), 1.0)

    def observe_refusal(self) -> None:
        """Learn that the margin alone kept somebody out: without this, one that grew too large would stay so."""
        self.margin_ns *= 1 - _FORGET

    def usual_ns(self, rung: int, n_tokens: int, *, is_together: bool = False) -> float:
        """Give the network's time as it was timed; times `speed` it is what is predicted now.

        Between two lengths a rung that pads takes the longer one's time, one that does not something between.

        Args:
            is_together: of an inference of as many windows as it runs together, each padded to n_tokens.
        """
        times = self._together[rung] if is_together else self._times[rung]
        place = bisect_left(times, n_tokens, key=itemgetter(0))
        if place == len(times):
            tokens, ns = times[-1]
            return ns * n_tokens / tokens
        tokens, ns = times[place]
        if place == 0 or self._is_stepped[rung]:
            return ns
        fewer, less_ns = times[place - 1]
        return less_ns + (ns - less_ns) * (n_tokens - fewer) / (tokens - fewer)


def _balance(is_over: bool, *, share: float = KEPT) -> float:
    """Give the step that stands still on average where this share of all cases is not over."""
    return share if is_over else share - 1
