"""What docs say of commands and files is so: commands and flags that they name are there, each flag is named, links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from millis.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FLAG = r"(--[a-z][a-z0-9-]+)(?![a-z0-9-])"


def list_commands(command: Any, path: str = "") -> Iterator[tuple[str, list[list[str]]]]:
    """Give each command's name, and the spellings of each of its flags."""
    yield path.strip(), [["--help"], *(one.opts + one.secondary_opts for one in command.params if one.opts[0].startswith("-"))]
    context = typer.Context(command)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from list_commands(command.get_command(context, name), f"{path} {name}")


FLAGS = dict(list_commands(get_command(app)))


def read(page: Path) -> str:
    return page.read_text("utf-8").replace("\\\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_flags_and_links_of_a_page_are_there(page: Path) -> None:
    wrong = []
    for words, rest in re.findall(r"millis ((?:[a-z]+ ){1,2})([^\n`|]*)", read(page)):
        path = next((path for path in (words.strip(), words.split()[0]) if path in FLAGS), None)
        wrong += [f"millis {path} {flag}" for flag in re.findall(FLAG, rest) if path and not any(flag in one for one in FLAGS[path])]
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page)):
        if "://" not in link and not (page.parent / link).exists():
            wrong.append(link)
    assert not wrong


def test_every_flag_stands_in_the_reference_or_a_guide() -> None:
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", " ".join(read(page) for page in PAGES if page.name != "log.md")))
    assert [f"millis {path} {spellings[0]}" for path, flags in FLAGS.items() for spellings in flags if not named & set(spellings)] == []


def test_every_benchmark_is_told_of() -> None:
    told = read(ROOT / "benchmarks" / "README.md")
    assert [file.name for file in sorted((ROOT / "benchmarks").glob("*.py")) if f"`{file.name}`" not in told] == []
