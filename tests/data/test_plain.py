"""Texts without labels, one a line."""

from pathlib import Path

from millis.data.plain import read_plain


def test_a_text_ends_at_a_line_feed_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeff退款\u2028要多久\x0b？\r\n\r\n second\x85one \n".encode())
    assert read_plain(file) == ["退款\u2028要多久\x0b？", " second\x85one "]
