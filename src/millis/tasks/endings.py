"""Whether a schema can be written out: something finite keeps to it, and every reference gets somewhere.

Border: reads schemas that schemas.py has checked; knows no grammar.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def is_endless(named: Mapping[str, Any]) -> bool:
    """Say whether no finite text keeps to the schema named "#": those that can end are found step by step.

    Args:
        named: schemas by what refers to them.
    """
    ending: set[str] = set()
    while found := {name for name, one in named.items() if name not in ending and _can_end(one, ending)}:
        ending |= found
    return "#" not in ending


def is_circular(named: Mapping[str, Any]) -> bool:
    """Say whether a reference comes back to itself without a character between."""
    for name in named:
        reached: set[str] = set()
        new = {name}
        while new:
            new = {to for one in new for to in _refer_bare(named[one])} - reached
            reached |= new
        if name in reached:
            return True
    return False


def _can_end(schema: Any, ending: set[str]) -> bool:
    if not isinstance(schema, dict):
        return True
    if "$ref" in schema:
        return schema["$ref"] in ending
    if "anyOf" in schema:
        return any(_can_end(one, ending) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return True
    if isinstance(schema.get("type"), list):
        return any(_can_end({**schema, "type": one}, ending) for one in schema["type"])
    if schema.get("type") == "object":
        members = schema.get("properties", {})
        return all(_can_end(members[name], ending) for name in schema.get("required", []))
    if schema.get("type") == "array" and schema.get("minItems", 0) > 0:
        return _can_end(schema.get("items", True), ending)
    return True


def _refer_bare(schema: Any) -> Iterator[str]:
    """Give the references of a schema that stand for it as a whole."""
    if isinstance(schema, dict) and "$ref" in schema:
        yield schema["$ref"]
    elif isinstance(schema, dict) and "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _refer_bare(one)
