"""Labelled text to a proven bundle: the whole loop, recorded step by step in a run folder.

    train       the reference, in fp32
    build       the whole model in every runtime; then pruned ones, as far as the contract or the ladder asks
    probe       the likeliest behind a real server, briefly
    prove       the rungs of the ladder, until the contract is kept
    save        the ladder, the cheapest rung that keeps the contract in front

Border: reads and checks what is asked; search.py decides, the rooms below do the work.
"""

import time
from pathlib import Path
from typing import Any

from millis.bundles import Bundle
from millis.contract import Contract
from millis.errors import is_out_of_memory, out_of_memory
from millis.searching.case import prepare
from millis.searching.ledger import alone_in
from millis.searching.settings import FitSettings, name_settings


def fit(
    train: str | Path,
    *,
    base: str,
    out: str | Path,
    contract: Contract,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    **rest: Any,
) -> Bundle:
    """Fine-tune, compress, compile, measure and prove, until the contract holds.

    Args:
        train, dev, test: labelled files; dev and test are carved from train when missing.
        base: folder in Hugging Face layout, hub id, or package:NAME.
        out: where the bundle shall stand.
        rest: the other fields of FitSettings and of ReadSettings (epochs, seed, within_ms, rungs, layout, ends, ...).
    Returns:
        the bundle, its certificate kept.
    Raises:
        ContractBroken: nothing kept it; see run_fit.
    """
    paths = {"dev": Path(dev) if dev else None, "test": Path(test) if test else None}
    settings = name_settings({"train": Path(train), "base": base, "out": Path(out), **paths, **rest})
    return run_fit(contract, settings)


def run_fit(contract: Contract, settings: FitSettings) -> Bundle:
    """Fine-tune, compress, compile, measure and prove, until the contract holds and the ladder is full.

    Returns:
        the bundle, its certificate kept.

    Raises:
        ContractBroken: nothing kept it; the message has the nearest feasible points and the cheapest relaxation, and
            the best rung stands at out all the same, where any was answered at all.
        MeasurementVoid: the same, but what was measured decides nothing.
        InvalidData, InvalidBase, InvalidValue: the input cannot be used, or another fit works on the same bundle;
            nothing was written.
        RunFailed: the disk or the memory is full; the same command goes on.
        Interrupted: Ctrl-C; the same command goes on from the run folder.
    """
    try:
        case = prepare(contract, settings, began=time.monotonic())
        # The training libraries take two seconds to load; a mistake in what is asked, or in the data, is told before.
        from millis.searching.search import search

        with alone_in(case.folder):
            return search(case)
    except Exception as error:  # each library has its own
        if is_out_of_memory(error):
            raise out_of_memory("in the middle of the fit") from error
        raise
