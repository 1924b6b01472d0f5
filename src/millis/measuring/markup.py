"""Write HTML and SVG so that text is always escaped.

Border: strings in, `Markup` out; knows no looks. Only `Markup` passes unescaped; `element` and `join` make
it, and files of our own are wrapped by hand.
"""

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"meta", "link", "br", "line", "rect", "circle", "path", "polyline"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | None


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Write one element.

    Args:
        tag: its name.
        children: text, escaped; or markup, as it stands; None is left out.
        attributes: a trailing underscore is dropped and others become hyphens (`class_`, `stroke_width`);
            None and False leave the attribute out, True gives it bare; numbers are rounded to 2 places.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID and not children:
        return Markup(f"<{tag}{written}>" if tag in ("meta", "link", "br") else f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Put pieces one after the other, escaping what is text."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(child) for child in children if child is not None
        )
    )


def _attribute(name: str, value: str | float | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {name}="{escape(text)}"'
