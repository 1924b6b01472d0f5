"""Weights of a causal language model rounded to eight or four bits; four by texts, where texts are given and it helps.

Border: an IR in, an IR out, by NNCF. What is judged here is which of two ways to round loses less on texts that neither
was rounded by; what rounding costs as such is packing.py's to show.
Source: AWQ, Lin et al. 2023, arXiv:2306.00978, and NNCF's own estimation of scales; both are the library's.
"""

import io
import logging
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.bundles import Choice
from millis.compiling.causal import FILE, feed_first, run_stateful
from millis.errors import InvalidValue
from millis.telemetry.progress import bar

_GROUPS = (128, 64, 32, 16)
_LONGEST, _SHORTEST, _MOST, _FEWEST = 128, 8, 64, 4
_HELD_OUT = 4
"""Every so many windows one is kept to judge by."""


def cut_windows(tokenizer: str, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Cut texts into windows of ids (T,) to round by, one of each text.

    Args:
        tokenizer: content of tokenizer.json.
    Raises:
        InvalidValue: too few texts that are long enough.
    """
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(tokenizer)
    cut = [np.array(made.encode(text).ids[:_LONGEST], np.int64) for text in texts[: 4 * _MOST]]
    windows = [ids for ids in cut if len(ids) >= _SHORTEST][:_MOST]
    if len(windows) < _FEWEST:
        raise InvalidValue(
            f"{len(windows)} of {len(texts)} texts to round by have {_SHORTEST} tokens or more: give at least {_FEWEST}"
            " such lines, as they will come and go."
        )
    return windows


def round_weights(
    source: Path, *, bits: int, windows: Sequence[NDArray[np.int64]] = ()
) -> tuple[Any, tuple[Choice, ...]]:
    """Round weights: eight bits for each row, or four for each group with the table and the head at eight.

    Args:
        windows: ids (T,) by which four bits are rounded; what loses less on every fourth of them is taken.
    """
    import nncf
    import openvino as ov

    logging.getLogger("nncf").setLevel(logging.ERROR)
    made = ov.Core().read_model(source / FILE)
    if bits == 8:
        with _without_bars():
            return nncf.compress_weights(made, mode=nncf.CompressWeightsMode.INT8_ASYM), ()
    widths = {
        int(op.input(1).get_partial_shape()[1].get_length())
        for op in made.get_ops()
        if op.get_type_name() == "MatMul" and op.input(1).get_partial_shape().rank.get_length() == 2
    }
    group = next((g for g in _GROUPS if all(width % g == 0 for width in widths)), -1)
    choice = Choice(
        what="weights that share a scale", choice="a row" if group == -1 else f"{group} of a row",
        reason=f"the largest group that divides {', '.join(map(str, sorted(widths)))}",
    )  # fmt: skip

    def round_to_four(**more: Any) -> Any:
        mode = nncf.CompressWeightsMode.INT4_SYM
        with redirect_stdout(sys.stderr) if more else _without_bars():  # by texts it takes minutes
            return nncf.compress_weights(
                ov.Core().read_model(source / FILE), mode=mode, ratio=1.0, group_size=group, **more
            )

    plain = round_to_four()
    if not windows:
        return plain, (choice,)
    learnt = [window for i, window in enumerate(windows) if (i + 1) % _HELD_OUT]
    held_out = [window for i, window in enumerate(windows) if not (i + 1) % _HELD_OUT]
    texts = nncf.Dataset(learnt, feed_first)
    by_texts = round_to_four(dataset=texts, subset_size=len(learnt), awq=True, scale_estimation=group != -1)
    lost = [math.exp(measure_loss(one, held_out)) for one in (plain, by_texts)]
    is_better = lost[1] < lost[0]
    how = Choice(
        what="four bits rounded", choice="by texts" if is_better else "without texts",
        reason=f"perplexity on {len(held_out)} texts kept aside: {lost[1]:.3f} by {len(learnt)} others, {lost[0]:.3f}"
        " without",
    )  # fmt: skip
    return (by_texts if is_better else plain), (choice, how)


def _without_bars() -> redirect_stdout[io.StringIO]:
    """Keep the library's bars off the terminal, where it is done within seconds."""
    return redirect_stdout(io.StringIO())


def measure_loss(made: Any, windows: Sequence[NDArray[np.int64]]) -> float:
    """Give the mean loss of windows' pieces after the first, natural logarithm."""
    total, n = 0.0, 0
    with bar("texts kept aside", total=len(windows)) as advance:
        for done, ids in enumerate(windows, start=1):
            logits = run_stateful(made, ids, n_first=len(ids))[:-1].astype(np.float64)
            top = logits.max(axis=1)
            spread = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            total += float((spread - logits[np.arange(len(ids) - 1), ids[1:]]).sum())
            n += len(ids) - 1
            advance(done, "")
    return total / n
