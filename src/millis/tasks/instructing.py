"""Tasks that a model which chats is told to do: translate, summarise; the words that tell it.

Border: texts to messages; the chat template makes a prompt of them.
"""

from collections.abc import Mapping
from types import MappingProxyType

from millis.errors import InvalidValue

CHAT = "chat"
USUAL_INSTRUCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "translate": "Translate the text into Chinese.\n\n{text}",
        "summarise": "Summarise the text in one sentence.\n\n{text}",
    }
)
SPEAKING = (CHAT, *USUAL_INSTRUCTIONS)
"""Tasks whose answers grow piece by piece."""

_PLACE = "{text}"
_MOST_CHARACTERS = 4000


def check_instruction(instruction: str) -> str:
    """Give an instruction back where it can be one.

    Raises:
        InvalidValue: it has no place for the text, or several, or it is too long.
    """
    n = instruction.count(_PLACE)
    if n != 1:
        raise InvalidValue(
            f"the instruction has {n} places for the text: write {_PLACE} once, like"
            f" {USUAL_INSTRUCTIONS['translate']!r}."
        )
    if len(instruction) > _MOST_CHARACTERS:
        raise InvalidValue(
            f"the instruction has {len(instruction):,} characters: {_MOST_CHARACTERS:,} are allowed, cut it."
        )
    return instruction


def write_messages(text: str, *, instruction: str) -> list[dict[str, str]]:
    """Ask for what the instruction says, of this text."""
    before, _, after = instruction.partition(_PLACE)
    return [{"role": "user", "content": f"{before}{text}{after}"}]
