"""What a server is to serve, as one value: its models, the versions on trial, and those kept to go back to.

The parent holds it, workers follow it; every change (load, unload, promote, roll back) gives a new one.
Border: values; it loads nothing and knows no processes.
"""

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from millis.binomial import requests_to_decide
from millis.contract import Contract, judge_latency
from millis.errors import InvalidRequest
from millis.tasks.instructing import SPEAKING

Share = Annotated[float, Meta(ge=0, le=100)]

USUAL_CANARY = 10.0
"""Per cent of the requests that a new version gets where nobody says how many."""

_FIRST_LOOK = 16
"""The first look is at this part of the answers that can say kept."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle as it was when it was loaded.

    Args:
        number: counted from 1 over all models of the server; answers name it in X-Millis-Version.
        name: what requests call its model.
        seal: of all in its folder but name and proofs; a folder with another one is another version.
        differs: in what this machine is another than the certificate's; its rungs are timed again where there is any.
    """

    number: int
    name: str
    path: str
    seal: str
    task: str
    contract: dict[str, Any]
    differs: tuple[str, ...] = ()


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A model.

    Args:
        serving: answers.
        trial: a new version: it answers canary_percent of the requests, and is asked shadow_percent of them once more
            behind the client's back, to compare the answers.
        former: what served before, loaded still until `serving` has kept its contract.
    """

    name: str
    serving: Version
    trial: Version | None = None
    canary_percent: Share = 0.0
    shadow_percent: Share = 0.0
    former: Version | None = None

    @property
    def judged(self) -> Version | None:
        """The version whose promise is being looked at: that on trial, or that which has just taken over."""
        if self.trial is not None:
            return self.trial if self.canary_percent else None
        return self.serving if self.former is not None else None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """All that is served; revision counts the changes."""

    models: tuple[Placed, ...]
    revision: int = 1

    def find(self, name: str) -> Placed:
        """Give a model by name.

        Raises:
            InvalidRequest: 404.
        """
        for one in self.models:
            if one.name == name:
                return one
        raise InvalidRequest(
            f"no model of that name is loaded: those there are: {', '.join(one.name for one in self.models)}.",
            status=404, slug="unknown-model",
        )  # fmt: skip

    def versions(self) -> dict[int, Version]:
        """Give every version that must be loaded, by number."""
        all_ = (one for placed in self.models for one in (placed.serving, placed.trial, placed.former))
        return {version.number: version for version in all_ if version is not None}

    def load(self, version: Version, *, canary_percent: float | None, shadow_percent: float | None) -> "Placement":
        """Add a model, or a new version of one that is served: that goes on trial.

        Args:
            canary_percent, shadow_percent: None for the usual: 10 and 0, or 0 for the canary where there is a shadow.
        Raises:
            InvalidRequest: 409, another task, the same bundle, or a folder that a served version stands in.
        """
        shadow = shadow_percent or 0.0
        canary = (0.0 if shadow else USUAL_CANARY) if canary_percent is None else canary_percent
        known = next((one for one in self.models if one.name == version.name), None)
        taken = {one.path: one for one in self.versions().values()}
        if known is None:
            if canary_percent is not None or shadow_percent is not None:
                raise _conflict(
                    f"no version of {version.name} is served yet, so nothing can be compared with: leave"
                    " canary_percent and shadow_percent out, or give the name of one that is."
                )
            self._check_place(version, taken)
            return self._with(Placed(name=version.name, serving=version))
        if known.trial is not None and known.trial.seal == version.seal and known.trial.path == version.path:
            version = known.trial  # other percentages for what is on trial
        elif known.trial is not None or known.former is not None:
            raise _conflict(
                f"a version of {version.name} is on trial or has just taken over: promote it or roll it back first."
            )
        else:
            self._check_place(version, taken)
        if known.serving.task != version.task:
            raise _conflict(
                f"{version.name} answers {known.serving.task} and the new bundle {version.task}: give another name."
            )
        if version.task in SPEAKING:
            raise _conflict(
                f"{version.name} speaks, and nothing compares two versions of such: give the new one another name."
            )
        return self._with(
            msgspec.structs.replace(known, trial=version, canary_percent=canary, shadow_percent=shadow)
        )

    def unload(self, name: str) -> "Placement":
        """Take a model out, with all its versions.

        Raises:
            InvalidRequest: 404 unknown, 409 the last one.
        """
        self.find(name)
        rest = tuple(one for one in self.models if one.name != name)
        if not rest:
            raise _conflict(f"{name} is the only model: load another one first, or stop the server.")
        return Placement(models=rest, revision=self.revision + 1)

    def promote(self, name: str) -> "Placement":
        """Let the version on trial take over; the one that served stays loaded, to go back to.

        Raises:
            InvalidRequest: 404 unknown, 409 nothing is on trial.
        """
        known = self.find(name)
        if known.trial is None:
            raise _conflict(f"no version of {name} is on trial: load one with POST /v1/admin/models.")
        return self._with(Placed(name=name, serving=known.trial, former=known.serving))

    def roll_back(self, name: str) -> "Placement":
        """Take the version on trial out, or let the former one serve again.

        Raises:
            InvalidRequest: 404 unknown, 409 there is nothing to go back to.
        """
        known = self.find(name)
        if known.trial is not None:
            return self._with(Placed(name=name, serving=known.serving))
        if known.former is None:
            raise _conflict(
                f"nothing of {name} is left to go back to: a former version is let go when the new one has kept its"
                " contract. Load it again with POST /v1/admin/models."
            )
        return self._with(Placed(name=name, serving=known.former))

    def settle(self, name: str) -> "Placement":
        """Let the former version go."""
        return self._with(Placed(name=name, serving=self.find(name).serving))

    def _with(self, placed: Placed) -> "Placement":
        """Replace a model, in its place, or add it."""
        names = [one.name for one in self.models]
        models = list(self.models)
        if placed.name in names:
            models[names.index(placed.name)] = placed
        else:
            models.append(placed)
        return Placement(models=tuple(models), revision=self.revision + 1)

    def _check_place(self, version: Version, taken: dict[str, Version]) -> None:
        """Refuse a folder that is served from: a worker that starts again must find there what the others run."""
        there = taken.get(version.path)
        if there is not None:
            raise _conflict(
                f"version {there.number} of {there.name} is served from that folder: put the new bundle into one of"
                " its own and load it from there."
            )


class Judging:
    """Looks at a version's promise as its answers come, by the binomial verdict of the contract.

    It looks at as many answers as can say kept where all were in time (459 for a p99), at a half, a quarter, an eighth
    and a sixteenth of that, and at doubles. Each look errs once in a hundred at most for a version that stands exactly
    at its bound; looking at doubled numbers only keeps the looks few.
    """

    def __init__(self, contract: dict[str, Any]) -> None:
        self._contract = Contract.from_record(contract)
        least = requests_to_decide(self._contract.percentile)
        self._look_at = math.ceil(least / _FIRST_LOOK)
        self.detail = f"at least {least} answers are needed to say kept"

    def look(self, n: int, *, n_missed: int) -> Literal["kept", "broken"] | None:
        """Give a verdict where these counts, since the beginning, say one."""
        if n < self._look_at:
            return None
        while self._look_at <= n:
            self._look_at *= 2
        clause = judge_latency(self._contract, n_requests=n, n_misses=n_missed)
        self.detail = clause.detail
        if clause.status == "kept" or clause.status == "broken":
            return clause.status
        return None


def _conflict(message: str) -> InvalidRequest:
    return InvalidRequest(message, status=409, slug="conflict")

