"""Chats to token ids, ids of an answer to text as they come, and where a text may stop.

Border: text and ids; no engine, no HTTP. This is no Task of rows and softmaxes: its answer's size is not known before
(docs/decisions/0014). Templates come from bundles and run in a sandbox that cannot change what it is given.
Limits: a message that spells a special piece is read as that piece, as in transformers. Of the special pieces templates
are given those that begin and end a text.
Source: what templates find besides messages is what transformers (utils/chat_template_utils.py) gives them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from millis.errors import InvalidBundle, InvalidRequest, MissingExtra
from millis.tasks.instructing import write_messages
from millis.tasks.tokenization import SpeakingTokenizer

TEMPLATE = "chat_template.jinja"

Prompt = str | Sequence[Mapping[str, str]]
"""What a client asks: a text, or messages."""

_MARK = "tide"
_PROBES = (_MARK, "Ebbe", "潮", "7", "?")
"""Texts that begin alike in nothing."""


class Chat:
    """A chat model's way of writing.

    Args:
        folder: of a bundle, with tokenizer.json and, where the model knows chats, a template.
        settings: the manifest's task settings.
    Attributes:
        context: most tokens of prompt and answer together.
        stop_ids: pieces that end an answer.
        instruction: what is asked of a text, where the model is for one such task; else None.
        has_template: does it know messages?
        system: what stands before messages that bring no system message; None for nothing.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, Any]) -> None:
        try:
            self.context = int(settings["context"])
            self.stop_ids = tuple(int(i) for i in settings["stop_ids"])
            self._begin, self._end = str(settings["begin"]), str(settings["end"])
            self.instruction = str(settings["instruction"]) if "instruction" in settings else None
            self.system = str(settings["system"]) if "system" in settings else None
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidBundle(
                f"{folder.name}: the task settings {sorted(settings)} are not those of chat: make the bundle anew."
            ) from error
        self.tokenizer = SpeakingTokenizer(folder / "tokenizer.json")
        file = folder / TEMPLATE
        self._template = _compile(file.read_text("utf-8"), name=folder.name) if file.is_file() else None
        self.has_template = self._template is not None

    def encode(self, text: str) -> list[int]:
        """Cut a prompt into ids, with the pieces that the tokenizer puts in front of every text."""
        return self.tokenizer.encode(text, has_frame=True)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Cut a prompt as a server does; a text to a model that knows no messages stands as it is."""
        if not isinstance(prompt, str):
            return self.encode_messages(prompt)
        if self.instruction is not None:
            return self.encode_text(prompt)
        return self.encode_messages([{"role": "user", "content": prompt}]) if self.has_template else self.encode(prompt)

    def encode_text(self, text: str) -> list[int]:
        """Ask for the model's one task on a text; a model without a template reads the instruction as it stands."""
        assert self.instruction is not None
        messages = write_messages(text, instruction=self.instruction)
        if self._template is None:
            return self.encode(messages[0]["content"] + "\n")
        return self.encode_messages(messages)

    def encode_messages(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Write messages by the model's template, ready for the assistant's answer, and cut them.

        Args:
            messages: each with role and content.
        Raises:
            InvalidRequest: the model has no template, or its template refuses these messages.
        """
        if self.system is not None and not (messages and messages[0]["role"] == "system"):
            messages = [{"role": "system", "content": self.system}, *messages]
        return self.tokenizer.encode(self._render(messages, asks=True), has_frame=False)

    def list_fixed(self) -> tuple[int, ...]:
        """List the ids that prompts begin with, whatever is asked; none where texts are read as they stand.

        Raises:
            InvalidRequest: there is a system message, and the template refuses it, or there is no template.
        """
        try:
            prompts = [
                self.encode_messages([{"role": "user", "content": one}])
                if self.instruction is None
                else self.encode_text(one)
                for one in _PROBES
            ]
        except InvalidRequest:
            if self.system is not None:
                raise
            return ()
        first = prompts[0]
        n = next((i for i, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), min(map(len, prompts)))
        return tuple(first[:n])

    def end_of_answer(self) -> int:
        """Give the piece that an answer ends with: what the template puts behind it, if that stops the engine."""
        if self._template is None:
            return self.stop_ids[0]
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
        behind = self._render(turns, asks=False).rpartition(_MARK)[2]
        found = self.tokenizer.encode(behind, has_frame=False)
        return next((i for i in found if i in self.stop_ids), self.stop_ids[0])

    def _render(self, messages: Sequence[Mapping[str, str]], *, asks: bool) -> str:
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template: ask it at /v1/completions.", slug="no-chat-template", param="messages"
            )
        try:
            text: str = self._template.render(
                messages=[dict(one) for one in messages], tools=None, documents=None, add_generation_prompt=asks,
                bos_token=self._begin, eos_token=self._end,
            )  # fmt: skip
        except Exception as error:  # a template may do anything that Python raises for
            raise InvalidRequest(
                "the model's chat template refuses these messages: begin with system or user, and let user and"
                " assistant take turns.",
                slug="template-refused", param="messages",
            ) from error
        return text


def _compile(source: str, *, name: str) -> Any:
    try:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtra("chat templates need jinja2, which is not installed: pip install 'millis[llm]'.") from error

    class Generation(Extension):
        """Marks for training what the assistant says; nothing else."""

        tags = {"generation"}  # noqa: RUF012  # as Extension has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise InvalidBundle(f"{name}: {TEMPLATE} is no Jinja template ({error}): make the bundle anew.") from error


class Stops:
    """Let text through until one of some strings comes; what may be its beginning waits."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._waiting = ""

    def add(self, text: str) -> tuple[str, bool]:
        """Give what is certain to stand before any stop, and whether one came."""
        self._waiting += text
        places = [place for one in self._strings if (place := self._waiting.find(one)) >= 0]
        if places:
            return self._waiting[: min(places)], True
        n_kept = max(
            (n for one in self._strings for n in range(1, len(one)) if self._waiting.endswith(one[:n])), default=0
        )
        cut = len(self._waiting) - n_kept
        out, self._waiting = self._waiting[:cut], self._waiting[cut:]
        return out, False

    def end(self) -> str:
        """Give what waited for a stop that never came."""
        out, self._waiting = self._waiting, ""
        return out
