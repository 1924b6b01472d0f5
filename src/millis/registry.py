"""One door for everything that comes in several kinds: backends, tasks, passes.

Built-ins and plugins are both names that resolve to "module:attribute"; nothing is imported until it is asked for.
Border: knows nothing about what it holds.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from millis.errors import InvalidValue, MissingExtra


class Registry:
    """Names that resolve to "module:attribute" on demand.

    Usage:
        backends = Registry("backend", {"fake": "millis.backends.fake:FakeBackend"}, extras={"torch": "train"})
        backends["fake"]()          # imports millis.backends.fake
        sorted(backends)            # names, plugins included, nothing imported
    """

    def __init__(self, kind: str, known: dict[str, str], *, extras: dict[str, str] | None = None) -> None:
        self._kind = kind
        self._known = dict(known)
        self._extras = extras or {}
        self._plugins_read = False

    def register(self, name: str, target: str) -> None:
        """Add a name that resolves to target, "module:attribute"."""
        self._known[name] = target

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __getitem__(self, name: str) -> Any:
        """Import and give what a name stands for.

        Raises:
            InvalidValue: the name is not known; the message lists the known ones.
            MissingExtra: a library that it needs is not installed; the message has the pip command.
        """
        known = self._all()
        if name not in known:
            raise InvalidValue(f"unknown {self._kind} {name!r}: choose one of {', '.join(sorted(known))}.")
        module, _, attribute = known[name].partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("millis"):
                raise
            extra = self._extras.get(name)
            install = f"pip install 'millis[{extra}]'" if extra else f"pip install {error.name}"
            raise MissingExtra(
                f"{self._kind} {name!r} needs {error.name}, which is not installed: {install}."
            ) from error

    def _all(self) -> dict[str, str]:
        if not self._plugins_read:
            self._plugins_read = True
            for point in entry_points(group=f"millis.{self._kind}s"):
                self._known.setdefault(point.name, point.value)
        return self._known
