"""The ways to adapt a base: what each trains, how fast, and which bases it can be put on.

    full      every weight
    lora      low-rank changes of every matrix in a layer; merged
    adalora   the same, its ranks given to the matrices that use them; merged
    ia3       factors of keys, values and channels; merged
    adapter   a bottleneck behind both halves of a layer, and the norms; stays in the graph
    prefix    keys and values in front of every attention's; stays in the graph
    prompt    vectors in front of the text's; stays in the graph

All train the head too. Border: names, numbers and config.json; imports no torch. adapting.py does it.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from millis.errors import InvalidBase, InvalidValue, MissingExtra

_PRUNED, _GRAFTED = "millis_layers", "millis_graft"
"""Keys of config.json that say that a network was pruned, or holds what adapting left in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to adapt.

    Args:
        learning_rate: its usual peak; None is fine-tuning's, chosen by width.
        head: how many times faster than that the head learns, which begins with nothing.
        size: rank of low-rank changes, width of adapters, or vectors in front; 0 where there is none.
        is_peft: made by the library peft, and merged into the weights.
        note: what stays in the compiled model, in words; None where nothing does.
    """

    learning_rate: float | None = None
    head: float = 1.0
    size: int = 0
    is_peft: bool = False
    note: str | None = None


# Rates, and how much faster the head learns: measured, docs/decisions/0011-what-stays-is-ours.md.
METHODS = {
    "full": Method(),
    "lora": Method(learning_rate=5e-4, head=30.0, size=16, is_peft=True),
    "adalora": Method(learning_rate=2e-3, head=5.0, size=8, is_peft=True),
    "ia3": Method(learning_rate=1e-2, is_peft=True),
    "adapter": Method(learning_rate=1e-3, head=20.0, size=64, note="an adapter behind each half of a layer"),
    "prefix": Method(learning_rate=1e-2, size=16, note="a prefix in each attention"),
    "prompt": Method(learning_rate=3e-2, size=16, note="a prompt in front of each text"),
}


SPEAKING_METHODS = ("full", "lora", "adalora")
"""What a model that speaks can be taught by: all that leaves nothing in its graph but IA3, which is untried there."""


def check_method(name: str) -> None:
    """Refuse a name that no method has.

    Raises:
        InvalidValue: the message lists them.
    """
    if not (isinstance(name, str) and name in METHODS):
        raise InvalidValue(f"adapt cannot be {name!r}: choose one of {', '.join(METHODS)}.")


def check_speaking_method(name: str) -> None:
    """Refuse a method that a model which speaks cannot be taught by.

    Raises:
        InvalidValue: the message lists those that can.
        MissingExtra: the method is peft's, which is not installed.
    """
    if name not in SPEAKING_METHODS:
        raise InvalidValue(
            f"adapt cannot be {name!r} for a model that speaks: choose one of {', '.join(SPEAKING_METHODS)}."
        )
    _check_installed(name)


def check_adaptable(base: Path, *, adapt: str) -> None:
    """Refuse a base that a method cannot be put on, before anything is loaded.

    Raises:
        InvalidValue: it holds what another adapting left; or, for all but full, it was pruned or has no layers.
        MissingExtra: the method is peft's, which is not installed.
    """
    _check_installed(adapt)
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidBase(f"{base.name}/config.json cannot be read: copy it again from where the base came.") from error
    if config.get(_GRAFTED) is not None:
        raise InvalidValue(
            f"{base.name} holds what adapting it left in its graph, and cannot be adapted again: give the base that"
            " it was made from."
        )
    if adapt == "full":
        return
    if config.get(_PRUNED) is not None:
        raise InvalidValue(
            f"adapt cannot be {adapt} on {base.name}, which was pruned: it needs whole layers. Choose full, or give the"
            " base that it was made from."
        )
    if not config.get("num_hidden_layers", config.get("n_layers", 1)):
        raise InvalidValue(
            f"adapt cannot be {adapt} on {base.name}, which has no layers: choose full, or another base."
        )


def _check_installed(name: str) -> None:
    if METHODS[name].is_peft and find_spec("peft") is None:
        raise MissingExtra(f"adapt {name} needs peft, which is not installed: pip install 'millis[train]'.")
