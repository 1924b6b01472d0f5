"""How long an encoder of any shape takes in one runtime on one machine, from the times of its parts.

A network is the rest (embeddings, head, the call), the norms of its layers, and halves of layers. Its time is that of
these together, but for a residual that whole networks taught, since fusion is not additive: for each length some ms on
top of the rest, and a scale of the halves.

All of it is known twice: back to back, and cold, when much else went through the caches since the last run. Cold, a
layer costs by its calls more than by its width: a nearly empty one takes two fifths of a whole one's time, a third when
warm.

Border: arithmetic on times; who builds and times the networks is searching/layers.py's matter.
Limits: one thread in an inference.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.bundles.manifest import TableCheck

Shape = Sequence[tuple[int, int]]
"""Heads and feed-forward channels, layer by layer."""

_COOLING_MS = 40.0
"""In which caches lose two thirds of a network. WNUT-17's 40 % on a shared Xeon, 32 tokens: 0.76 ms back to back, 1.04
after 10 ms of other work on the same core, 1.62 after 30, 2.01 after 100."""


def coldness_at(rate_per_s: float, *, n_lengths: int) -> float:
    """Say how cold requests at a rate find a network: 0 as back to back, 1 as if never run.

    Args:
        n_lengths: for how many lengths it is compiled: each has weights and code of its own, and waits for its turn.
    """
    return -math.expm1(-1000 * n_lengths / rate_per_s / _COOLING_MS)


class HalfTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of half a layer: of its attention by heads, or of its feed-forward by channels.

    Args:
        units: sizes that were measured, ascending, from none to all.
        ms: of each size, by token count; never falling with the size.
        whole_bytes: of its weights when nothing is taken away, at the runtime's precision.
    """

    units: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    whole_bytes: int


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole network that the table had not seen: predicted and measured ms at one token count."""

    shape: tuple[tuple[int, int], ...]
    tokens: int
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a share of what was measured."""
        return self.predicted_ms / self.measured_ms - 1


class LayerTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of an encoder's parts in one runtime.

    Args:
        runtime: backend and precision, like openvino-int8.
        n_layers: of the whole network.
        tokens: the token counts measured, ascending.
        rest_ms: of a network whose layers have kept nothing, by token count.
        norms_ms: of a layer that kept nothing, by token count: a part of the rest, gone with the layer.
        heads, channels: the two halves of a layer.
        extra_ms, scale: the residual by token count: on top of the rest, and of the halves' times.
        checks: networks that taught it nothing, predicted and measured.
        cold: the same of cold runs; None where nobody timed them.
    """

    runtime: str
    n_layers: int
    tokens: tuple[int, ...]
    rest_ms: tuple[float, ...]
    norms_ms: tuple[float, ...]
    heads: HalfTimes
    channels: HalfTimes
    extra_ms: tuple[float, ...]
    scale: tuple[float, ...]
    checks: tuple[Check, ...] = ()
    cold: "LayerTable | None" = None

    def predict_ms(self, shape: Shape, *, tokens: int) -> float:
        """Predict the time of a network of this shape at a token count; layers that are gone are not in it."""
        gone_ms = (self.n_layers - len(shape)) * np.array(self.norms_ms)
        ms = self._fixed() - gone_ms + self._sum_halves(shape) * np.array(self.scale)
        return float(np.interp(tokens, self.tokens, ms))

    def cost(self, lengths: Sequence[int], *, coldness: float = 0.0) -> Callable[[str, int], float]:
        """Give a function of kind and units: mean ms of half a layer over texts of these token counts.

        Of the kind "norms" a layer has one.

        Args:
            coldness: share of the way from back to back, 0, to cold, 1; see `coldness_at`.
        """
        if self.cold is not None and coldness:
            warm, cold = self.cost(lengths), self.cold.cost(lengths)
            return lambda kind, units: (1 - coldness) * warm(kind, units) + coldness * cold(kind, units)
        weights = self._weights(lengths)
        norms_ms, mean = float(np.array(self.norms_ms) @ weights), weights * np.array(self.scale)
        return lambda kind, units: units * norms_ms if kind == "norms" else float(self._half(kind, units) @ mean)

    def rest_mean_ms(self, lengths: Sequence[int], *, coldness: float = 0.0) -> float:
        """Give the mean ms, over texts of these token counts, that no pruning takes away; coldness as for `cost`."""
        if self.cold is not None and coldness:
            return (1 - coldness) * self.rest_mean_ms(lengths) + coldness * self.cold.rest_mean_ms(lengths)
        return float((self._fixed() - self.n_layers * np.array(self.norms_ms)) @ self._weights(lengths))

    def count_bytes(self, shape: Shape) -> int:
        """Count the bytes of weights that a request through these layers touches."""
        each = [half.whole_bytes / half.units[-1] for half in (self.heads, self.channels)]
        return round(sum(n * size for layer in shape for n, size in zip(layer, each, strict=True)))

    def worst_error(self) -> float:
        """Give the largest error of the checks, as a share; 0 without any."""
        return max((abs(check.error) for check in self.checks), default=0.0)

    def median_error(self) -> float:
        """Give the error of the checks in the middle, as a share; 0 without any."""
        return median(abs(check.error) for check in self.checks) if self.checks else 0.0

    def sum_checks(self) -> tuple[TableCheck, ...]:
        """Sum the checks up by token count, those of cold runs behind the others."""
        by_tokens = [(tokens, [one for one in self.checks if one.tokens == tokens]) for tokens in self.tokens]
        summed = tuple(
            TableCheck(
                runtime=self.runtime, tokens=tokens, n=len(checks),
                measured_ms=median(one.measured_ms for one in checks),
                median_error=round(median(abs(one.error) for one in checks), 4),
                worst_error=round(max(abs(one.error) for one in checks), 4),
            )
            for tokens, checks in by_tokens if checks
        )  # fmt: skip
        return summed if self.cold is None else (*summed, *self.cold.sum_checks())

    def _fixed(self) -> NDArray[np.float64]:
        return np.add(self.rest_ms, self.extra_ms, dtype=np.float64)

    def _sum_halves(self, shape: Shape) -> NDArray[np.float64]:
        halves = [self._half("heads", heads) + self._half("channels", channels) for heads, channels in shape]
        return np.asarray(np.sum(halves, axis=0) if halves else np.zeros(len(self.tokens)), np.float64)

    def _half(self, kind: str, units: int) -> NDArray[np.float64]:
        times = {"heads": self.heads, "channels": self.channels}[kind]
        return np.array([np.interp(units, times.units, column) for column in zip(*times.ms, strict=True)])

    def _weights(self, lengths: Sequence[int]) -> NDArray[np.float64]:
        """Give each token count's weight in a mean over texts, lengths between two counts shared out by distance."""
        at = np.interp(np.minimum(lengths, self.tokens[-1]), self.tokens, np.arange(len(self.tokens)))
        below, share = np.floor(at).astype(int), at % 1
        above = np.minimum(below + 1, len(self.tokens) - 1)
        n = len(self.tokens)
        counted = np.bincount(below, 1 - share, minlength=n) + np.bincount(above, share, minlength=n)
        return np.asarray(counted / len(lengths), np.float64)


class Timed(NamedTuple):
    """A whole network that was timed: its shape, and ms by token count."""

    shape: tuple[tuple[int, int], ...]
    ms: tuple[float, ...]


def halves_of(
    uniform: Sequence[tuple[int, Sequence[float]]], *, rest_ms: Sequence[float], n_layers: int, whole_bytes: int
) -> HalfTimes:
    """Work out the times of one kind of half from networks of which every layer has only this half, at one size.

    Args:
        uniform: size, and ms by token count of the whole network; ascending.
    """
    rows = [np.zeros(len(rest_ms))]
    for _, ms in uniform:  # a larger part that seemed faster is noise
        rows.append(np.maximum((np.array(ms) - np.array(rest_ms)) / n_layers, rows[-1]))
    return HalfTimes(
        units=(0, *(units for units, _ in uniform)),
        ms=tuple(tuple(float(value) for value in row) for row in rows),
        whole_bytes=whole_bytes,
    )


def learn_residual(table: LayerTable, whole: Sequence[Timed]) -> LayerTable:
    """Give a table whose residual fits these networks by least squares of the relative error, length by length."""
    extra_ms, scale = [], []
    for i, rest_ms in enumerate(table.rest_ms):
        halves = np.array([table._sum_halves(one.shape)[i] for one in whole])
        seen = np.array([one.ms[i] for one in whole])
        columns = np.stack([1 / seen, halves / seen], axis=1)
        found = np.linalg.lstsq(columns, (seen - rest_ms) / seen, rcond=None)[0]
        extra_ms.append(float(found[0]))
        scale.append(float(found[1]))
    return msgspec.structs.replace(table, extra_ms=tuple(extra_ms), scale=tuple(scale))


def check_table(table: LayerTable, whole: Sequence[Timed]) -> LayerTable:
    """Give a table with its predictions for these networks beside what they took."""
    checks = tuple(
        Check(
            shape=one.shape, tokens=tokens, predicted_ms=round(table.predict_ms(one.shape, tokens=tokens), 4),
            measured_ms=round(ms, 4),
        )
        for one in whole
        for tokens, ms in zip(table.tokens, one.ms, strict=True)
    )  # fmt: skip
    return msgspec.structs.replace(table, checks=checks)
