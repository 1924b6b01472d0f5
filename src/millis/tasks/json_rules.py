"""JSON itself, and dates, times and UUIDs, as rules of the EBNF that the engine's compiler reads.

Border: rules alone; which of them a schema asks for is schemas.py's.
"""

_PLAIN = (
    r"[\x20-\x21\x23-\x5b\x5d-\x7f\u0080-\u07ff\u0800-\u0fff\u1000-\ucfff\ud000-\ud7ff\ue000-\uffff"
    r"\U00010000-\U0003ffff\U00040000-\U000fffff\U00100000-\U0010ffff]"
)
"""Ranges, since the compiler reads [^...] as bytes of UTF-8's shape, of which not all make a character.

They part where UTF-8's second bytes differ: behind e0 or ed of a wider range xgrammar loses its place, and holds the
answer to nothing from there on (openvino-genai 2026.4.1).
"""
_SMALL_HEX, _DAY_31 = "[0-9a-f]", '("0" [1-9] | [12] [0-9] | "3" [01])'
JSON_RULES = {
    "value": "object | array | string | number | boolean | null",
    "object": '"{" (member ("," " "? member)*)? "}"',
    "member": 'string ":" " "? value',
    "array": '"[" (value ("," " "? value)*)? "]"',
    "string": r'"\"" rest',
    "rest": rf'"\"" | {_PLAIN} rest | "\\" escape rest',
    "char": rf'{_PLAIN} | "\\" escape',
    "escape": r'["\\/bfnrt] | "u" ([0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2})',
    "hex": "[0-9a-fA-F]",
    "integer": '"-"? ("0" | [1-9] [0-9]{0,14})',
    "number": 'integer ("." [0-9]{1,15})? ([eE] [+-]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "date": f'[12] [0-9]{{3}} "-" (("01" | "03" | "05" | "07" | "08" | "10" | "12") "-" {_DAY_31}'
    ' | ("04" | "06" | "09" | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
    "time": 'clock ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [+-] clock)',
    "datetime": 'date "T" time',
    "uuid": f'{_SMALL_HEX}{{8}} "-" ({_SMALL_HEX}{{4}} "-"){{3}} {_SMALL_HEX}{{12}}',
}  # fmt: skip
"""Rules that every grammar begins with: JSON (RFC 8259), without what doubles and UTF-8 cannot hold.

A string ends by recursion: which of 49,152 pieces may come takes 0.7 ms a step so, and 24 ms as char*.
"""
