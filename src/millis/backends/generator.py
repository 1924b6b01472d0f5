"""What generates: ids of a prompt in, ids of an answer out as they come.

A generator has `name`, `load`, `start`, `accept`, `close`. Border: shapes only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from millis.errors import InvalidRequest

Ending = Literal["stop", "length", "failed"]

BLOCK_TOKENS = 32
"""What is kept of prompts is kept in whole blocks of so many."""

STEP_TOKENS = 128
"""Of prompts, read in one step: a long prompt lets others' pieces through so often."""


class Lookup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guess pieces by what stood behind the last ones before, and check several guesses in one step.

    Args:
        guesses: pieces at once.
        ngram: of how many last pieces an earlier place is looked for, fewer where there is none.
    """

    guesses: Annotated[int, Meta(ge=1, le=64)]
    ngram: Annotated[int, Meta(ge=1, le=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSettings:
    """How to load.

    Args:
        device: "cpu" or "cuda".
        context: most tokens of a prompt and its answer together.
        streams: answers at once; the memory for keys and values is for so many whole contexts, and no more is taken.
        pieces: the bytes that each id spells, in which grammars are read, b"" for special ones; None for no grammars.
        end_id: the piece that ends an answer.
        keeps_prefixes: does a prompt that begins like an earlier one begin there?
        prefix: ids that most prompts begin with, of which the whole blocks stay read where prefixes are kept.
        lookup: None for one piece a step.
        keeps_float32: compute in float32 where the engine would round to bfloat16 on this processor.
    """

    device: str = "cpu"
    threads: int = 1
    context: int = 2048
    streams: int = 4
    pieces: tuple[bytes, ...] | None = None
    end_id: int = 0
    keeps_prefixes: bool = True
    prefix: tuple[int, ...] = ()
    lookup: Lookup | None = None
    keeps_float32: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose the next piece.

    Args:
        temperature: 0 takes the likeliest.
        has_logprobs: give the natural logarithm of each piece's probability.
        grammar: EBNF that the answer keeps to, which `accept` has let through.
    """

    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    has_logprobs: bool = False
    grammar: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A piece of an answer, or its end.

    Args:
        id: None where it ended without another piece.
        ending: of the last step: "stop" by a stop id, which is in id then; "length"; "failed" by the engine.
    """

    id: int | None
    logprob: float = 0.0
    ending: Ending | None = None


Emit = Callable[[Step], None]
"""Called from the generator's thread; the last call has an ending. Must not raise and must not wait."""


class Stream(Protocol):
    """An answer that is being generated."""

    def cancel(self) -> None:
        """Stop before the next step; what is under way is the last. May be called twice, from anywhere."""


class Generator(Protocol):
    """Generates several answers at once, on threads of its own."""

    name: str

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """Read the model of a folder.

        Raises:
            InvalidValue: the device is not one of this generator's, or is not on this machine; or it has no lookup.
            InvalidBundle: the files cannot be read.
        """

    def start(self, ids: Sequence[int], *, sampling: Sampling, emit: Emit) -> Stream:
        """Begin an answer; returns at once."""

    def accept(self, grammar: str) -> None:
        """Try a grammar where it harms no answer; takes seconds at worst, call it from a thread.

        Raises:
            InvalidRequest: answers cannot be held to it, or to none.
        """

    def close(self) -> None:
        """Stop every answer and free the model."""


def no_grammars() -> InvalidRequest:
    """Give the error of a generator that cannot hold answers to a grammar."""
    return InvalidRequest(
        "this model cannot hold its answers to a form: leave response_format out, or ask a model on genai whose"
        " tokenizer spells by bytes.",
        slug="unsupported", param="response_format",
    )  # fmt: skip
