"""A JSON schema to the grammar of the JSON texts that keep to it, in the EBNF that the engine's compiler reads.

The engine reads schemas itself, but passes over keywords that it does not know, lets control characters into strings
and lets white space run on (docs/decisions/0020); so the grammar is written here, and every text of it is valid.
Border: a schema in, a grammar out; what a grammar costs to compile is the engine's to say.
Limits: the keywords of _HELD; members come in the schema's order, and nothing comes that the schema does not name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from millis.errors import InvalidRequest
from millis.tasks.endings import is_circular, is_endless
from millis.tasks.json_rules import JSON_RULES

MOST_BYTES, MOST_DEPTH, MOST_ITEMS, MOST_LENGTH, MOST_INTEGERS = 16_384, 16, 1_000, 100, 1_000
MOST_RULES_BYTES = 65_536

ANY_OBJECT: Mapping[str, Any] = {"type": "object", "additionalProperties": True}
"""Of what OpenAI calls json_object."""

_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "$comment", "$schema"})
_TABLES = ("$defs", "definitions")
_HELD: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format"}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset(), "boolean": frozenset(), "null": frozenset(),
}  # fmt: skip

_FORMATS = {"date": "date", "time": "time", "date-time": "datetime", "uuid": "uuid"}


def write_grammar(schema: Any) -> str:
    """Write the grammar of a schema.

    Raises:
        InvalidRequest: it is no schema, it is too large or too deep, it has a keyword or a reference that cannot be
            held to, or nothing that ends keeps to it; the message names the place.
    """
    n_bytes = len(msgspec.json.encode(schema))
    if n_bytes > MOST_BYTES:
        raise _refuse(f"it has {n_bytes:,} bytes, and {MOST_BYTES:,} are allowed: send a smaller one")
    _check_depth(schema)
    return _Grammar(schema).write()


def _check_depth(schema: Any) -> None:
    layer: list[Any] = [schema]
    for _ in range(MOST_DEPTH * 2 + 1):  # a schema within a schema is two layers of JSON
        layer = [below for one in layer for below in _list_below(one)]
        if not layer:
            return
    raise _refuse(f"it is nested more than {MOST_DEPTH} deep: send a flatter one")


def _list_below(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


class _Grammar:
    """Writes the rules of one schema.

    Args:
        root: the whole schema, which "#" refers to.
    """

    def __init__(self, root: Any) -> None:
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._named: dict[str, Any] = {"#": root}
        for table in _TABLES if isinstance(root, dict) else ():
            named = root.get(table, {})
            if not isinstance(named, dict):
                raise _refuse(f"{table} must be an object of schemas: write one, or leave it out")
            self._named |= {f"#/{table}/{name}": one for name, one in named.items()}
        self._rule_of = {name: f"ref{i}" for i, name in enumerate(self._named)}

    def write(self) -> str:
        """Give all rules, "root" first."""
        for i, (name, schema) in enumerate(self._named.items()):
            self._rules[self._rule_of[name]] = self._expression(schema, at=f"#/$defs/{i}" if i else "#")
        if is_endless(self._named):
            raise _refuse("what it describes never ends: let a member that refers back be optional, or null by anyOf")
        if is_circular(self._named):
            raise _refuse("a $ref in it comes back to itself with nothing around it: put it into a member")
        rules = {"root": self._rule_of["#"], **JSON_RULES, **self._rules}
        grammar = "".join(f"{name} ::= {rule}\n" for name, rule in rules.items())
        if len(grammar) > MOST_RULES_BYTES:
            raise _refuse(f"written out it has {len(grammar):,} characters, and {MOST_RULES_BYTES:,} are allowed")
        return grammar

    def _expression(self, schema: Any, *, at: str) -> str:
        """Give what a schema's texts are, as part of a rule."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise _refuse(f"{_place(at)} is no schema: write an object")
        keys = set(schema) - _NOTES - (set(_TABLES) if at == "#" else set())
        if "$ref" in keys:
            _check_keys(keys, {"$ref"}, at=at)
            return self._rule_of[self._follow(schema["$ref"], at=at)]
        if "anyOf" in keys:
            _check_keys(keys, {"anyOf"}, at=at)
            return self._either(schema["anyOf"], at=at)
        if "enum" in keys or "const" in keys:
            _check_keys(keys, {"enum", "const", "type"}, at=at)
            return _write_values(schema, at=at)
        said = schema.get("type")
        types: list[Any] = said if isinstance(said, list) else [said]
        if not keys:
            return "value"
        if "type" not in keys or not types or not all(isinstance(one, str) and one in _HELD for one in types):
            raise _refuse(f"{_place(at)} needs a type: give one of {', '.join(_HELD)}, or $ref, anyOf, enum or const")
        _check_keys(keys, {"type"}.union(*(_HELD[one] for one in types)), at=at)
        return _either([getattr(self, f"_{one}")(schema, at=at) for one in types])

    def _follow(self, reference: Any, *, at: str) -> str:
        if not isinstance(reference, str) or reference not in self._named:
            raise _refuse(
                f"{_place(at)} refers to what is not in it: $ref can be # or #/$defs/NAME, nothing is fetched"
            )
        return reference

    def _either(self, choices: Any, *, at: str) -> str:
        if not isinstance(choices, list) or not choices:
            raise _refuse(f"{_place(at)} has an anyOf without choices: give a list of schemas")
        return _either([self._expression(one, at=f"{at}/anyOf/{i}") for i, one in enumerate(choices)])

    def _object(self, schema: Mapping[str, Any], *, at: str) -> str:
        members, required = schema.get("properties", {}), schema.get("required", [])
        others = schema.get("additionalProperties", "properties" not in schema)
        if not isinstance(members, dict) or not isinstance(required, list):
            raise _refuse(f"{_place(at)} must have properties as an object, and required as a list of their names")
        if any(not isinstance(name, str) or name not in members for name in required):
            raise _refuse(f"{_place(at)} requires a member that its properties do not have: name it there")
        if not members:
            if others is False:
                return '"{}"'
            member = self._name(f'string ":" " "? {self._expression(others, at=f"{at}/additionalProperties")}')
            return f'"{{" ({member} ("," " "? {member})*)? "}}"'
        if not isinstance(others, bool):
            raise _refuse(
                f"{_place(at)} has properties and a schema for additionalProperties: give one of them, none are added"
            )
        return f'"{{" {self._members(members, required, at=at)} "}}"'

    def _members(self, members: Mapping[str, Any], required: Sequence[str], *, at: str) -> str:
        """Write members in their order, of which those that are not required may be missing.

        From the last one back, each has two rules: where no other came before it, and behind a comma.
        """
        first = later = '""'
        for i, (name, schema) in reversed(list(enumerate(members.items()))):
            key = _quote(_encode(name) + ":")
            member = self._name(f'{key} " "? {self._expression(schema, at=f"{at}/properties/{i}")}')
            is_free = name not in required
            first, later = (
                self._name(f"{member} {later}" + (f" | {first}" if is_free else "")),
                self._name(f'"," " "? {member} {later}' + (f" | {later}" if is_free else "")),
            )
        return first

    def _name(self, expression: str) -> str:
        """Make a rule of an expression that is used more than once."""
        name = self._names.setdefault(expression, f"part{len(self._names)}")
        self._rules[name] = expression
        return name

    def _array(self, schema: Mapping[str, Any], *, at: str) -> str:
        low, high = _read_bounds(schema, "minItems", "maxItems", most=MOST_ITEMS, at=at)
        item = self._name(self._expression(schema.get("items", True), at=f"{at}/items"))
        if high == 0:
            return '"[]"'
        more = f'("," " "? {item}){{{max(low - 1, 0)},{"" if high is None else high - 1}}}'
        return f'"[" {item} {more} "]"' if low else f'"[" ({item} {more})? "]"'

    def _string(self, schema: Mapping[str, Any], *, at: str) -> str:
        low, high = _read_bounds(schema, "minLength", "maxLength", most=MOST_LENGTH, at=at)
        said = schema.get("format")
        if said is None and high is None:
            return f'"\\"" char{{{low}}} rest' if low else "string"
        if said is None:
            return f'"\\"" char{{{low},{high}}} "\\""'
        if not isinstance(said, str) or said not in _FORMATS or low or high is not None:
            raise _refuse(f"{_place(at)} has a format that cannot be: use {', '.join(_FORMATS)}, without a length")
        return f'"\\"" {_FORMATS[said]} "\\""'

    def _integer(self, schema: Mapping[str, Any], *, at: str) -> str:
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is None and high is None:
            return "integer"
        if type(low) is int and type(high) is int and 0 <= high - low < MOST_INTEGERS:
            return self._name(_either([f'"{i}"' for i in range(low, high + 1)]))
        if type(low) is int and low in (0, 1) and high is None:
            return '[1-9] [0-9]{0,14}' if low else '("0" | [1-9] [0-9]{0,14})'
        raise _refuse(
            f"{_place(at)} has bounds that cannot be held to: give minimum and maximum as integers, with at most"
            f" {MOST_INTEGERS:,} values from one to the other, or minimum 0 or 1 alone"
        )

    def _number(self, schema: Mapping[str, Any], *, at: str) -> str:
        return "number"

    def _boolean(self, schema: Mapping[str, Any], *, at: str) -> str:
        return "boolean"

    def _null(self, schema: Mapping[str, Any], *, at: str) -> str:
        return "null"


def _write_values(schema: Mapping[str, Any], *, at: str) -> str:
    values = [schema["const"]] if "const" in schema else schema["enum"]
    if not isinstance(values, list) or not values or ("const" in schema and "enum" in schema):
        raise _refuse(f"{_place(at)} must have values to choose from: give const, or enum with at least one")
    said = schema.get("type")
    types = said if isinstance(said, list) else [said]
    if said is not None and not all(any(_is_of(one, kind) for kind in types) for one in values):
        raise _refuse(f"{_place(at)} has a value that is not of its type: leave the type out, or the value")
    return _either([_quote(_encode(one)) for one in values])


def _is_of(value: Any, kind: Any) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(kind, str) and kind in kinds and isinstance(value, kinds[kind])


def _read_bounds(
    schema: Mapping[str, Any], lower: str, upper: str, *, most: int, at: str
) -> tuple[int, int | None]:  # fmt: skip
    low, high = schema.get(lower, 0), schema.get(upper)
    for value in (low, 0 if high is None else high):
        if type(value) is not int or not 0 <= value <= most:
            raise _refuse(f"{_place(at)} has a {lower} or {upper} that cannot be: give 0 to {most:,}")
    if high is not None and high < low:
        raise _refuse(f"{_place(at)} has a {lower} above its {upper}: nothing keeps to that, exchange them")
    return low, high


def _check_keys(keys: set[str], held: set[str], *, at: str) -> None:
    wrong = sorted(keys - held)
    if wrong:
        raise _refuse(
            f"{_place(at)} has {wrong[0][:40]!r}, to which answers cannot be held there: leave it out; held are"
            f" {', '.join(sorted(held))}"
        )


def _either(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})"


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _quote(text: str) -> str:
    """Write a text as the grammar has it, between quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _place(at: str) -> str:
    """Name a place by its way through the schema, where names count by their place: they are the client's words."""
    return "its root" if at == "#" else f"its part {at[:80]}"


def _refuse(wrong: str) -> InvalidRequest:
    return InvalidRequest(f"the schema cannot be used: {wrong}.", slug="invalid-schema", param="response_format")
