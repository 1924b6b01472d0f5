"""What models that speak do at /v1/live: a text that grows as the answer to a message, until another takes its place.

Border: a message in, parts of its answer out; connections are live.py's, what is generated comes from generating.py.
Limits: the likeliest answer.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from time import perf_counter_ns
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from millis.backends.generator import Sampling
from millis.errors import MillisError
from millis.serving.generating import Talker
from millis.serving.live_tasks import Deadline
from millis.serving.problems import write_problem
from millis.serving.talking import Counted
from millis.tasks.instructing import CHAT
from millis.telemetry.metrics import Metrics

Say = Callable[[dict[str, Any]], Awaitable[None]]


class LiveMessage(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends.

    Args:
        input: the text as it stands; "" only takes the place of the one before.
        id: comes back with every part of the answer.
        model: name of a bundle; None is the first that serves the task.
        max_tokens: of the answer; None for as many as the context has room for.
        deadline_ms: from the message's coming; the answer ends after the last sentence that fits.
    """

    input: str
    task: Literal["translate", "summarise", "chat"]
    id: str | int | None = None
    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    deadline_ms: Deadline = None


async def answer(
    message: LiveMessage, talker: Talker, *, came_ns: int, say: Say, note: Callable[..., None], metrics: Metrics
) -> None:
    """Have a model answer a message.

    Args:
        say: sends a message of these members.
        note: takes status and slug of how it ended.
    """
    status, slug = 200, ""
    talker.n_open += 1
    try:
        await _generate(message, talker, came_ns=came_ns, say=say, metrics=metrics)
    except asyncio.CancelledError:
        status, slug = 499, "replaced"
        raise
    except OSError:
        status, slug = 499, "disconnected"
    except Exception as error:
        status, slug = (error.status, error.slug) if isinstance(error, MillisError) else (500, "internal")
        await say({"error": msgspec.Raw(write_problem(error)[1])})
        if not isinstance(error, MillisError):
            raise  # a bug of ours: nobody asks this task for its error, so the event loop writes it into the log
    finally:
        talker.n_open -= 1
        note(status, slug=slug)


async def _generate(
    message: LiveMessage, talker: Talker, *, came_ns: int, say: Say, metrics: Metrics
) -> None:  # fmt: skip
    deadline_ns = math.inf if message.deadline_ms is None else came_ns + 1e6 * message.deadline_ms
    ids, n_new, last = _encode(message, talker) if message.input else [], 0, None
    if ids:
        talker.admit(ids, n_answers=1, left_ns=deadline_ns - perf_counter_ns(), param="input")
        room = talker.chat.context - len(ids)
        sampling = Sampling(max_tokens=min(message.max_tokens or room, room), stop_ids=talker.chat.stop_ids)
        counted = Counted(talker.bundle.name, metrics, came_ns=came_ns)
        growing = talker.answer(ids, sampling=sampling, stops=(), deadline_ns=deadline_ns)
        async with aclosing(growing) as parts:
            async for last in parts:
                n_new += len(last.pieces)
                if last.text:
                    await say({"delta": last.text})
        assert last is not None
        counted.end(last, n_tokens=n_new)
    first_ns = None if last is None else last.first_ns
    is_late = last is not None and last.ending == "deadline"
    await say({
        "done": True, "finish_reason": "stop" if last is None else last.ending,
        **({"whole": last.is_whole} if last is not None and is_late else {}),
        "model": talker.bundle.name, "rung": talker.bundle.manifest.rung,
        "usage": {
            "prompt_tokens": len(ids), "completion_tokens": n_new, "total_tokens": len(ids) + n_new,
        },
        "first_ms": round((first_ns - came_ns) / 1e6, 3) if first_ns else None,
        "total_ms": round((perf_counter_ns() - came_ns) / 1e6, 3),
    })  # fmt: skip


def _encode(message: LiveMessage, talker: Talker) -> list[int]:
    if message.task == CHAT:
        return talker.chat.encode_messages([{"role": "user", "content": message.input}])
    return talker.chat.encode_text(message.input)
