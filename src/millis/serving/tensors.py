"""A tensor of bytes, as the Open Inference Protocol has it: texts in it, how they are packed, what is wrong with it.

Border: elements in, elements out; the requests around them are oip.py's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from millis.errors import InvalidRequest

INPUT, OUTPUT = "text", "result"

_LENGTH_BYTES = 4


def flatten(data: Sequence[Any], *, depth: int) -> list[str]:
    """Give the elements in row-major order, of data that is flat or nested as deeply as its shape."""
    for _ in range(depth - 1):
        if not all(isinstance(one, list) for one in data):
            break
        data = [element for one in data for element in one]
    if not all(isinstance(one, str) for one in data):
        raise wrong_tensor("an element of data is no string")
    return list(data)


def pack_elements(elements: Iterable[bytes]) -> bytes:
    """Write elements of a tensor of bytes one behind the other, each behind its length in 4 bytes."""
    return b"".join(len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in elements)


def unpack_elements(rest: bytes, *, most: int) -> list[str]:
    """Read texts, each its length in 4 bytes and then itself; one more than allowed is enough to refuse."""
    texts: list[str] = []
    at = 0
    while at < len(rest) and len(texts) <= most:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(rest[at:start], "little")
        if start > len(rest) or at > len(rest):
            raise mismatch("an element is longer than the bytes that came")
        texts.append(read_text(rest[start:at]))
    return texts


def read_text(element: bytes) -> str:
    """Read an element of a tensor of bytes.

    Raises:
        InvalidRequest: it is not UTF-8.
    """
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("an element of the tensor is not UTF-8: send texts in it.", slug="not-json") from error


def wrong_tensor(reason: str) -> InvalidRequest:
    """Say what is wrong with a request's tensors or parameters, and what to send."""
    return InvalidRequest(
        f'{reason}: send one input, {{"name": "{INPUT}", "datatype": "BYTES", "shape": [n]}}, and n texts in its data.',
        status=422, slug="wrong-shape",
    )  # fmt: skip


def mismatch(reason: str) -> InvalidRequest:
    """Say that lengths do not add up, and how texts are packed."""
    return InvalidRequest(
        f"{reason}: send the JSON, then for each text its length in 4 bytes (little endian) and itself; over gRPC the"
        " latter alone, in raw_input_contents.",
        slug="lengths-differ",
    )
