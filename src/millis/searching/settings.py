"""What is asked of a fit, beside the contract.

Border: checks values against each other; looks at no file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from millis.bundles.manifest import Name
from millis.data.readers import ReadSettings
from millis.errors import InvalidValue
from millis.tasks import tasks
from millis.training.augmentation import check_ways
from millis.training.methods import METHODS
from millis.training.settings import TrainSettings

_WITHOUT_LABELS = {"matches": "texts that fit one another", "answers": "answers from a text"}
_FILES = ("corpus", "unlabelled", "domain_text", "teacher")
ACTIVATIONS = ("own", "relu", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What is asked of a fit, beside the contract.

    Args:
        base: folder, hub id or package:NAME.
        out: where the bundle shall stand.
        reading: how train, dev and test are to be read.
        within_ms: stop trying further candidates after so long; the best so far is proven.
        epochs: of training, at most; None takes the training room's own, 0 takes the base as it is (embedding).
        adapt: what is trained: full, lora, adalora, ia3, adapter, prefix or prompt.
        tune: trainings to try with other settings, the best on dev taken; 0 trains once.
        trim_vocabulary: keep the pieces that train and the corpus use, and single characters.
        corpus: more texts, one a line, whose words keep their pieces; implies trim_vocabulary.
        rungs: how many the ladder shall have; with 1 the search ends when the contract is kept.
        multi_label: for classify, a text has any number of labels; read as parted by reading.separator, else a comma.
        out_of_scope: for classify, the label that means none of the others.
        balance: in training each label weighs the same, however rare it is.
        track: "wandb" writes the numbers of training for Weights & Biases too.
        augment: ways of `augmentation.WAYS`: altered copies of train are learnt too.
        prove_for_ms: how long a proof lasts, at least; a contract's percentile may need longer to be decided.
        unlabelled: texts, one a line, that are learnt by the labels the model is sure of, where dev says that it helps.
        domain_text: texts, one a line, on which the base goes on guessing masked pieces first, where dev says so.
        teacher: a bundle, or a folder that training wrote, of the same labels: it teaches the reference, where dev says
            that it helps.
        pooling: for embedding, "mean" or "cls"; None takes the base's own.
        dimensions: for embedding, sizes that vectors can be cut to, beside the base's.
        query_prefix, passage_prefix: for embedding, text before each query and before each passage, as the base was
            trained with; None says nothing of it, and means none.
        layers: of the base's, counted from 0, that pruned rungs may keep; None leaves the choice to the search.
        activation: in pruned rungs' feed-forwards: own, relu, or auto, which is relu where a layer is faster for it.
        train_on: "cpu", "cuda", or "auto": cuda where torch sees a GPU. Where it serves is the contract's device.
        sparse: time the network with this share of zeros beside itself, above 0 and below 1, and tell.
    Raises:
        InvalidValue: a value that cannot be; the message names those that can.
    """

    base: str
    out: Path
    train: Path
    dev: Path | None = None
    test: Path | None = None
    task: str = "ner"
    reading: ReadSettings = field(default_factory=ReadSettings)
    within_ms: float | None = None
    epochs: int | None = None
    seed: int = 7
    rungs: int = 3
    trim_vocabulary: bool = False
    corpus: Path | None = None
    tune: int = 0
    multi_label: bool = False
    out_of_scope: str | None = None
    balance: bool = False
    adapt: str = "full"
    track: str | None = None
    augment: tuple[str, ...] = ()
    prove_for_ms: float = 20_000.0
    unlabelled: Path | None = None
    domain_text: Path | None = None
    teacher: Path | None = None
    pooling: str | None = None
    dimensions: tuple[int, ...] = ()
    query_prefix: str | None = None
    passage_prefix: str | None = None
    layers: tuple[int, ...] | None = None
    activation: str = "own"
    sparse: float | None = None
    train_on: str = "auto"

    def __post_init__(self) -> None:
        for name in ("base", "out", "train", "dev", "test"):
            if not _is_utf8(str(getattr(self, name))):
                raise InvalidValue(f"{name} cannot be {str(getattr(self, name))!r}: give a path that is UTF-8.")
        try:
            msgspec.convert(self.out.name.removesuffix(".millis"), type=Name)
        except msgspec.ValidationError as error:
            raise InvalidValue(
                f"out cannot be {str(self.out)!r}: give a name of 1 to 200 printable characters, like NAME.millis."
            ) from error
        for name in ("query_prefix", "passage_prefix"):
            if not isinstance(getattr(self, name), str | None):
                raise InvalidValue(f"{name} cannot be {getattr(self, name)!r}: give the text before each, or None.")
        kind = tasks[self.task]
        unknown = sorted(self.asked().keys() - kind.asked)
        if unknown:
            raise InvalidValue(f"task {self.task} has no setting {unknown[0]}: leave it out, or choose another task.")
        if self.multi_label and self.reading.separator is None:
            object.__setattr__(self, "reading", replace(self.reading, separator=","))
        if self.reading.separator is not None and not self.multi_label:
            raise InvalidValue("a separator between labels is for multi_label: give both or none.")
        if self.within_ms is not None and not (isinstance(self.within_ms, int | float) and self.within_ms > 0):
            raise InvalidValue(f"within_ms cannot be {self.within_ms!r}: give a number above 0, or None.")
        if not (isinstance(self.prove_for_ms, int | float) and self.prove_for_ms > 0):
            raise InvalidValue(f"prove_for_ms cannot be {self.prove_for_ms!r}: give a number above 0.")
        if not (isinstance(self.rungs, int) and self.rungs >= 1):
            raise InvalidValue(f"rungs cannot be {self.rungs!r}: a ladder has 1 or more.")
        if not (isinstance(self.tune, int) and self.tune >= 0):
            raise InvalidValue(f"tune cannot be {self.tune!r}: give the number of trainings to try, 0 for none.")
        if self.balance and kind.data in _WITHOUT_LABELS:
            raise InvalidValue(f"balance is for labels, which {_WITHOUT_LABELS[kind.data]} have none of: leave it out.")
        if self.unlabelled is not None and (kind.data != "labels" or self.multi_label):
            raise InvalidValue(
                "unlabelled texts teach tasks with one label a text: leave them out, or use task classify without"
                " multi_label."
            )
        if self.epochs == 0 and (kind.data != "matches" or self.tune):
            raise InvalidValue("epochs cannot be 0 where something is trained: give 1 or more, and no --tune with 0.")
        idle = [name for name in ("domain_text", "teacher", "track") if getattr(self, name) is not None]
        idle += ["adapt"] if self.adapt != "full" else []
        if self.epochs == 0 and idle:
            raise InvalidValue(f"{idle[0]} is for training, and epochs 0 trains nothing: leave one of them out.")
        if self.augment and kind.data == "matches":
            raise InvalidValue("augment alters texts one by one, and these name one another: leave it out.")
        check_ways(self.augment)
        _check_layers(self.layers)
        if self.activation not in ACTIVATIONS:
            raise InvalidValue(f"activation cannot be {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}.")
        self.training()  # checks epochs, seed, adapt and train_on
        if self.sparse is not None and not (isinstance(self.sparse, int | float) and 0 < self.sparse < 1):
            raise InvalidValue(f"sparse cannot be {self.sparse!r}: give a share above 0 and below 1, like 0.8.")
        left = METHODS[self.adapt].note
        if self.teacher is not None and left is not None:
            raise InvalidValue(
                f"a teacher teaches a plain network, and adapt {self.adapt} leaves {left} in it: leave one of them out."
            )
        if left is not None and (self.layers is not None or self.activation != "own" or self.sparse is not None):
            raise InvalidValue(
                f"layers, activation and sparse are for plain networks, and adapt {self.adapt} leaves {left}, which"
                " pruning cannot cut: leave one of them out."
            )

    def asked(self) -> dict[str, Any]:
        """Give what is asked of the task itself."""
        given: dict[str, Any] = {"multi_label": self.multi_label, "out_of_scope": self.out_of_scope}
        given |= {"pooling": self.pooling, "dimensions": self.dimensions}
        given |= {"query_prefix": self.query_prefix, "passage_prefix": self.passage_prefix}
        return {name: value for name, value in given.items() if value}

    def training(self) -> TrainSettings:
        """Give the settings of training that are asked for; with 0 epochs they are not used."""
        usual = TrainSettings(
            seed=self.seed, balance=self.balance, adapt=self.adapt, tracker=self.track, device=self.train_on
        )
        return usual if not self.epochs else replace(usual, epochs=self.epochs)


def name_settings(given: Mapping[str, Any]) -> FitSettings:
    """Make settings of what a caller gave by name, the fields of ReadSettings among the others.

    Raises:
        InvalidValue: a name that no setting has, or a value that cannot be.
    """
    of_reading = [one.name for one in fields(ReadSettings)]
    known = [one.name for one in fields(FitSettings) if one.name != "reading"] + of_reading
    check_names("fit", given, known=known)
    reading = ReadSettings(**{name: given[name] for name in of_reading if name in given})
    rest = {name: given[name] for name in given if name not in of_reading}
    files = {name: Path(rest[name]) for name in _FILES if isinstance(rest.get(name), str)}
    return FitSettings(reading=reading, **(rest | files))


def check_names(what: str, given: Iterable[str], *, known: Sequence[str]) -> None:
    """Refuse a setting's name that there is not.

    Raises:
        InvalidValue: one of them is not known.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidValue(f"{what} has no setting {unknown[0]!r}: it has {', '.join(known)}.")


def _check_layers(layers: tuple[int, ...] | None) -> None:
    if layers is not None and (not layers or list(layers) != sorted(set(layers)) or layers[0] < 0):
        raise InvalidValue(
            f"layers cannot be {', '.join(map(str, layers)) or 'none'}: give whole numbers from 0 on, ascending, each"
            " once, like 0,2,5."
        )


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
