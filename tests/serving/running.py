"""A server with keys whose models come and go: real processes, real sockets.

Border: used by tests only.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from making import make_fake_bundle, watched
from millis.bundles import Bundle
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

MODELS = "/v1/admin/models"


class Site:
    """A running server with keys, a folder to load from, and a client for each key."""

    def __init__(self, folder: Path, *bundles: Bundle, **settings: Any) -> None:
        self.keys = KeyFile(folder / "keys.json")
        self.admin = self.keys.create(name="admin", scopes=["admin", "ner", "metrics"])[0]
        self.user = self.keys.create(name="user", scopes=["ner"])[0]
        self.talker = self.keys.create(name="talker", scopes=["chat"])[0]
        self.folder = folder / "models"
        self.folder.mkdir(exist_ok=True)
        self.settings = ServeSettings(
            bundles=tuple(str(one.path) for one in bundles), port=0, keys=str(self.keys.path),
            models_from=(str(self.folder),), **settings,
        )  # fmt: skip

    @contextlib.contextmanager
    def running(self) -> Iterator["Site"]:
        with Supervisor(self.settings) as self.server, watched(self.server), self.client(self.admin) as self.http:
            yield self

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, headers={"X-API-Key": key}, timeout=60)

    def make(self, folder: str, **options: Any) -> Path:
        """Write a bundle into a folder of its own."""
        return make_fake_bundle(self.folder / folder, **options).path

    def load(self, path: Path | str, **options: Any) -> httpx.Response:
        return self.http.post(MODELS, json={"path": str(path), **options})

    def ask(self, **options: Any) -> httpx.Response:
        return self.http.post("/v1/ner", json={"input": "maria", **options})

    def state(self, name: str = "fake") -> dict[str, Any]:
        listed = self.http.get(MODELS).json()["data"]
        return next(one for one in listed if one["name"] == name)

    def wait(self, holds: Callable[[], bool], *, within_s: float = 20.0, what: Callable[[], object] = str) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, what()
            time.sleep(0.05)
