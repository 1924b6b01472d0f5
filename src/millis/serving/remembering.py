"""What is served, kept in a file, so that a server that starts again serves what it did.

The file also says which bundles the command line named, so that at the next start what changed there wins: a bundle
that is named for the first time is served, in the place of a remembered model of its name, and one that is named no
longer is not. About bundles that were named before, the file decides.
Border: one JSON file, replaced as a whole; bundles are opened and checked here, loaded by workers.
Limits: a file is one server's; what was counted of a version on trial, and its history, are not kept.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from millis.bundles import Bundle
from millis.errors import InvalidBundle, InvalidValue, RunFailed
from millis.regular import read_regular
from millis.serving.placement import Placed, Placement, Version
from millis.serving.versions import make_version, open_version


class _State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file.

    Args:
        named: paths of the bundles on the command line.
        models: in the order in which they serve; those too that could not be opened when they were last looked for.
    """

    format: Literal[1] = 1
    named: tuple[str, ...]
    models: tuple[Placed, ...]


class Recalled(NamedTuple):
    """What is to be served from the start.

    Args:
        bundles: of the versions that serve, in the order of the placement, named as requests call them.
        n_versions: the highest number that a version has, that of one which could not be opened too.
        notes: lines for people, on what is not as it was.
    """

    placement: Placement
    bundles: tuple[Bundle, ...]
    n_versions: int
    notes: tuple[str, ...] = ()


class StateFile:
    """The file of one server.

    Args:
        path: it need not be there yet.
        named: the bundles on the command line.
        folders: that bundles may be loaded from; a remembered one that lies elsewhere and is not named goes.
    """

    def __init__(self, path: Path, *, named: Sequence[Bundle], folders: Sequence[str]) -> None:
        self.path = path
        self._named = {str(one.path.resolve()): one for one in named}
        self._folders = [Path(folder).resolve() for folder in folders]
        self._missing: tuple[Placed, ...] = ()

    def recall(self) -> Recalled:
        """Give what the file and the command line say together.

        Raises:
            InvalidValue: the file cannot be read, or is no such file.
            InvalidBundle: nothing is left to serve.
        """
        state = self._read()
        if state is None:
            return place(tuple(self._named.values()))
        notes: list[str] = []
        numbers = _count_on(state.models)
        new = {one.name: one for path, one in self._named.items() if path not in state.named}
        found: list[tuple[Placed, Bundle]] = []
        for placed in state.models:
            if placed.name in new:
                bundle = new.pop(placed.name)
                found.append((_place(bundle, number=next(numbers)), bundle))
                notes.append(
                    f"{placed.name}: the command line names {bundle.path}, which it did not before: it serves in place"
                    f" of {placed.serving.path}."
                )
                continue
            try:
                found.append(self._reopen(placed, state=state, numbers=numbers, notes=notes))
            except InvalidBundle as error:
                self._missing += (placed,)
                notes.append(
                    f"{placed.name} was served and is not: {error} It is looked for at the next start again; load"
                    f" another of that name, or take it out of {self.path}, to end that."
                )
            except InvalidValue as error:
                notes.append(str(error))
        found += [(_place(one, number=next(numbers)), one) for one in new.values()]
        if not found:
            raise InvalidBundle(
                f"nothing is left to serve of what {self.path} remembers: {' '.join(notes)} Bring a bundle back, or"
                " take the file away to serve what the command line names."
            )
        models, bundles = zip(*found, strict=True)
        return Recalled(Placement(models=models), bundles, next(numbers) - 1, tuple(notes))

    def keep(self, placement: Placement) -> None:
        """Write what is served; answers to whoever asked for it go out afterwards.

        Raises:
            RunFailed: the disk is full or not writable; the file is as it was.
        """
        names = {one.name for one in placement.models}
        self._missing = tuple(one for one in self._missing if one.name not in names)
        state = _State(named=tuple(self._named), models=(*placement.models, *self._missing))
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self.path)
        except OSError as error:
            raise RunFailed(
                f"what is served cannot be written into {self.path} ({error.strerror}), so the next start will serve"
                " what was written before: free some space, or give --state another file."
            ) from error

    def _read(self) -> _State | None:
        try:
            state = msgspec.json.decode(read_regular(self.path), type=_State)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidValue(f"{self.path} cannot be read ({error.strerror}): give --state another file.") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidValue(
                f"{self.path} is not what --state writes ({error}): give another file, or take it away to serve what"
                " the command line names."
            ) from error
        numbers = [version.number for one in state.models for version in _versions(one)]
        names = [one.name for one in state.models]
        if len({*numbers}) < len(numbers) or len({*names}) < len(names):
            raise InvalidValue(f"{self.path} has two models, or two versions, of one name or number: correct it.")
        return state

    def _reopen(
        self, placed: Placed, *, state: _State, numbers: Iterator[int], notes: list[str]
    ) -> tuple[Placed, Bundle]:
        """Open a model's versions again; go on without one that does not serve.

        Raises:
            InvalidBundle: that which serves is gone or altered.
            InvalidValue: it may be served no longer.
        """
        serving = placed.serving
        named = self._named.get(serving.path)
        if named is not None and named.identify() != serving.seal:  # replaced, as is usual there
            serving = make_version(named, number=next(numbers), name=placed.name)
        bundle = self._open(serving, state=state)
        beside: dict[str, Version | None] = {}
        for role, version in (("trial", placed.trial), ("former", placed.former)):
            try:
                beside[role] = version and make_version(
                    self._open(version, state=state), number=version.number, name=placed.name
                )
            except (InvalidBundle, InvalidValue) as error:
                beside[role] = None
                notes.append(f"{placed.name} goes on without its {role} version: {error}")
        shares = (placed.canary_percent, placed.shadow_percent) if beside["trial"] else (0.0, 0.0)
        again = _place(bundle, number=serving.number)
        return msgspec.structs.replace(again, **beside, canary_percent=shares[0], shadow_percent=shares[1]), bundle

    def _open(self, version: Version, *, state: _State) -> Bundle:
        path = version.path
        is_below = any(folder in Path(path).parents for folder in self._folders)
        if path not in self._named and (path in state.named or not is_below):
            raise InvalidValue(
                f"{version.name} is served no longer: {path} is not named on the command line, and was not loaded from"
                " a folder that --models-from names."
            )
        return open_version(version)


def place(bundles: Sequence[Bundle]) -> Recalled:
    """Place bundles as they are named."""
    models = tuple(_place(bundle, number=number) for number, bundle in enumerate(bundles, 1))
    return Recalled(Placement(models=models), tuple(bundles), len(models))


def _place(bundle: Bundle, *, number: int) -> Placed:
    return Placed(name=bundle.name, serving=make_version(bundle, number=number))


def _versions(placed: Placed) -> list[Version]:
    return [one for one in (placed.serving, placed.trial, placed.former) if one is not None]


def _count_on(models: Sequence[Placed]) -> Iterator[int]:
    """Number versions from the first number on that none of these has."""
    n = max((version.number for one in models for version in _versions(one)), default=0)
    while True:
        n += 1
        yield n
