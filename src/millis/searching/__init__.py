"""The loop: propose, build, measure, judge, record, until the contract holds or the time is up.

Border: the top of the making rooms; what it measures is what is served. `prove` needs no training library.

    settings    what is asked of a fit; case, what stays the same through it
    fitting     labelled text to a proven bundle: what is asked is read and checked
    search      which rungs are made and proven, in which order
    candidates  which variants are worth building, and how long each will take by prediction
    building    training, export, quantising: the parts of a bundle, each compared with its source
    proving     a bundle behind a real server under the contract's load, and the verdict
    evaluating  a bundle's answers to labelled text, scored
    relaxing    what to ask for instead, when nothing keeps the contract
    advising    which base to fit: foretold (foretelling, timing) before anything is trained, and ranked
    checking    labelled files, looked through before a fit
    ledger      what was done, so that a killed search goes on
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millis.searching.evaluating import evaluate
    from millis.searching.fitting import fit
    from millis.searching.proving import prove

_HOMES = {"evaluate": "evaluating", "fit": "fitting", "prove": "proving"}

__all__ = ["evaluate", "fit", "prove"]


def __getattr__(name: str) -> Any:
    """Import the part that is asked for; proving and evaluating load no training library."""
    if name not in _HOMES:
        raise AttributeError(f"module 'millis.searching' has no attribute {name!r}")
    return getattr(import_module(f"millis.searching.{_HOMES[name]}"), name)
