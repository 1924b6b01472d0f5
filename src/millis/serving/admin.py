"""The routes for whoever runs the server: load, unload, promote, roll back models; what they do now.

Border: HTTP and JSON; what a change means is the parent's (directing.py). Each needs a key with the scope admin, or
that of its action, and a server without keys changes nothing.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millis.bundles import open_bundle
from millis.bundles.manifest import Name
from millis.errors import InvalidBundle, InvalidRequest
from millis.security.keys import ADMIN, LOAD, PROMOTE, READ, ROLL_BACK, UNLOAD
from millis.serving.following import Follower
from millis.serving.gate import ON, Gate
from millis.serving.messages import Answered
from millis.serving.placement import Share, Version
from millis.serving.replies import write_json
from millis.serving.requests import read_body
from millis.serving.versions import make_version
from millis.telemetry.slowest import read_slowest

MODELS = "/v1/admin/models"
SLOWEST = "/v1/admin/slowest"

_BODY_BYTES, _BODY_S = 10_000, 10.0


class LoadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to load.

    Args:
        path: of a bundle, below a folder that --models-from names.
        name: what requests call it; its own name when missing.
        canary_percent: of the requests that a new version of a served model answers, 10 when missing.
        shadow_percent: of the requests whose answers it is compared with, behind the client's back.
    """

    path: str
    name: Name | None = None
    canary_percent: Share | None = None
    shadow_percent: Share | None = None


_decoder = msgspec.json.Decoder(LoadRequest)


class Admin:
    """The routes under /v1/admin.

    Args:
        folders: that bundles may be loaded from.
        slowest: folder in which workers write their slowest answers.
        has_keys: where there are none, nobody may change anything.
    """

    def __init__(
        self, follower: Follower, *, gate: Gate, folders: Sequence[str], has_keys: bool, slowest: Path
    ) -> None:
        self._follower, self._gate, self._has_keys, self._slowest = follower, gate, has_keys, slowest
        self._folders = [Path(folder).resolve() for folder in folders]

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route(SLOWEST, self._list_slowest),
            Route(MODELS, self._list_or_load, methods=["GET", "POST"]),
            Route(f"{MODELS}/{{model}}", self._unload, methods=["DELETE"]),
            Route(f"{MODELS}/{{model}}/promote", self._promote, methods=["POST"]),
            Route(f"{MODELS}/{{model}}/rollback", self._roll_back, methods=["POST"]),
        ]

    async def _list_or_load(self, request: Request) -> Response:
        return await (self._load(request) if request.method == "POST" else self._list(request))

    async def _list(self, request: Request) -> Response:
        self._gate.allow(request.scope, ADMIN, READ)
        return _write(await self._follower.ask("list"))

    async def _list_slowest(self, request: Request) -> Response:
        self._gate.allow(request.scope, ADMIN, READ)
        return write_json({"object": "list", "data": read_slowest(self._slowest)})

    async def _load(self, request: Request) -> Response:
        self._check_asker(request, LOAD)
        body = await read_body(request.receive, limit=_BODY_BYTES, within_s=_BODY_S)
        try:
            asked = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            status = 422 if isinstance(error, msgspec.ValidationError) else 400
            raise InvalidRequest(
                'the body is not what loads a model: send {"path": FOLDER}, and if you like "name", "canary_percent"'
                ' and "shadow_percent" (0 to 100).',
                status=status, slug="wrong-shape" if status == 422 else "not-json",
            ) from error  # fmt: skip
        path = self._find(asked.path)
        try:
            version = await asyncio.to_thread(_open, path, name=asked.name)
        except InvalidBundle as error:
            raise InvalidRequest(str(error), status=422, slug="invalid-bundle") from error
        request.scope[ON] = version.name
        answered = await self._follower.ask(
            "load", version=version, canary_percent=asked.canary_percent,
            shadow_percent=asked.shadow_percent,
        )  # fmt: skip
        return _write(answered, status=201)

    async def _unload(self, request: Request) -> Response:
        self._check_asker(request, UNLOAD)
        return _write(await self._follower.ask("unload", name=request.path_params["model"]))

    async def _promote(self, request: Request) -> Response:
        self._check_asker(request, PROMOTE)
        return _write(await self._follower.ask("promote", name=request.path_params["model"]))

    async def _roll_back(self, request: Request) -> Response:
        self._check_asker(request, ROLL_BACK)
        return _write(await self._follower.ask("rollback", name=request.path_params["model"]))

    def _check_asker(self, request: Request, action: str) -> None:
        """Refuse changes without keys, or by a key for others, or that a page from elsewhere has a browser ask for."""
        if not self._has_keys:
            raise InvalidRequest(
                "a server without keys changes nothing: start it with --keys FILE and send a key of the scope admin.",
                status=403, slug="forbidden",
            )  # fmt: skip
        self._gate.allow(request.scope, ADMIN, action)
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise InvalidRequest(
                "a page of another site may change nothing here: ask from this server's own, or without a browser.",
                status=403, slug="forbidden",
            )  # fmt: skip

    def _find(self, path: str) -> Path:
        """Give a path as it really is, and refuse what lies elsewhere before anybody looks whether it is there."""
        if not self._folders:
            raise InvalidRequest(
                "this server loads nothing: start it with --models-from FOLDER.", status=403, slug="forbidden"
            )
        try:
            found = (self._folders[0] / path).resolve()
        except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte
            found = Path("/")
        if not any(folder in found.parents for folder in self._folders):
            raise InvalidRequest(
                "this path is not below a folder that --models-from names: put the bundle there, and give its path.",
                status=403, slug="forbidden",
            )  # fmt: skip
        return found


def _open(path: Path, *, name: str | None) -> Version:
    return make_version(open_bundle(path), name=name)


def _write(answered: Answered, *, status: int = 200) -> Response:
    document: dict[str, Any] = {"revision": answered.revision, "object": "list", "data": answered.models}
    response = write_json(document)
    response.status_code = status
    return response
