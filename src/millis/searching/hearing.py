"""What a bundle that speaks answers, and how good that is: dialogues in, texts and a score out.

Border: answers come through the engine, as a server gives them, without HTTP.
Limits: answers are scored on the first MOST_SCORED dialogues.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from millis.backends.generator import Sampling
from millis.bundles import Bundle
from millis.data.dialogues import Dialogue
from millis.serving.generating import Talker, load_talker
from millis.tasks.chat import Chat
from millis.tasks.task import Score
from millis.tasks.wording import score_rewritten
from millis.telemetry.progress import bar, say

MOST_SCORED, MOST_NEW = 200, 128


def score_spoken(bundle: Bundle, test: Sequence[Dialogue]) -> Score:
    """Score a bundle's likeliest answers to the first MOST_SCORED dialogues."""
    answers = answer_all(bundle, test, name=bundle.name)
    return score_rewritten(bundle.manifest.task, answers, [one.answers for one in test[: len(answers)]])


def encode_prompt(one: Dialogue, chat: Chat) -> list[int]:
    """Cut what is asked into ids, as a server does."""
    if isinstance(one.text, str):
        return chat.encode_text(one.text)
    return chat.encode_messages([{"role": turn.role, "content": turn.content} for turn in one.text])


def answer_all(bundle: Bundle, test: Sequence[Any], *, name: str) -> list[str]:
    """Let a bundle answer the first dialogues of test, as its server would; what does not fit gets none."""
    talker = load_talker(bundle)
    try:
        return asyncio.run(_answer(talker, test[:MOST_SCORED], name=name))
    finally:
        talker.close()


async def _answer(talker: Talker, test: Sequence[Dialogue], *, name: str) -> list[str]:
    done = 0
    with bar(f"answers of {name}", total=len(test)) as advance:

        async def answer(one: Dialogue) -> str:
            nonlocal done
            ids = encode_prompt(one, talker.chat)
            room = talker.chat.context - len(ids)
            text = ""
            if room > 0:
                sampling = Sampling(max_tokens=min(MOST_NEW, room), stop_ids=talker.chat.stop_ids)
                async with aclosing(talker.answer(ids, sampling=sampling, stops=())) as parts:
                    async for part in parts:
                        text += part.text
            done += 1
            advance(done, "")
            return text.strip()

        began = time.perf_counter()
        answers = await asyncio.gather(*(answer(one) for one in test))
        say(f"{name}: {len(test)} answers in {time.perf_counter() - began:.1f} s")
        return answers
