"""Which sequence of an engine's memory a prompt begins in, and how a step is shared: without the engine."""

from collections.abc import Sequence

from millis.backends.generator import Sampling
from millis.backends.sequences import Held, Turn, choose_sequence, share_out
from millis.backends.stepping import OpenAnswer


def hold(number: int, read: Sequence[int], *, used_at: int = 0) -> Held:
    held = Held(number)
    held.read, held.used_at = list(read), used_at
    return held


def turn(n_unread: int) -> Turn:
    return Turn(OpenAnswer(range(n_unread), sampling=Sampling(max_tokens=1), emit=lambda step: None), Held(0))


def test_a_prompt_goes_on_where_most_of_what_was_read_is_its_own() -> None:
    like, other = hold(0, [1, 2, 3], used_at=9), hold(1, [7, 8])
    assert choose_sequence([1, 2, 3, 4], free=[like, other], read=[like, other]) == (like, like, 3)


def test_a_long_conversation_is_kept_for_its_own_and_only_its_beginning_is_shared() -> None:
    long, oldest = hold(0, range(10), used_at=9), hold(1, [50])
    assert choose_sequence([0, 1, 99], free=[long, oldest], read=[long, oldest]) == (oldest, long, 2)


def test_the_last_of_a_prompt_is_always_read_again_since_it_gives_the_logits() -> None:
    same, free = hold(0, [1, 2, 3]), hold(1, [])
    assert choose_sequence([1, 2, 3], free=[free], read=[same])[1:] == (same, 2)


def test_where_nothing_may_be_shared_the_one_that_was_idle_longest_is_taken() -> None:
    old, new = hold(0, [1, 2], used_at=1), hold(1, [1, 2], used_at=2)
    assert choose_sequence([1, 2, 3], free=[new, old], read=[]) == (old, old, 0)


def test_what_short_ones_leave_of_a_step_the_long_ones_read() -> None:
    parts = share_out([turn(100), turn(1), turn(100)], n_tokens=21)
    assert [len(ids) for _, ids in parts] == [1, 10, 10]
