"""What docs say of commands, errors and files is so: what they name is there, what is there is named, links lead somewhere."""

import ast
import re
import tomllib
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

import millis
from millis import errors
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


def read_table(page: str, *, head: str) -> list[list[str]]:
    """Give the cells of a page's table that begins with this head."""
    lines = read(ROOT / "docs" / page).partition(f"\n| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_class_of_errors_is_in_the_reference_with_its_slug_and_exit_code() -> None:
    known = {
        name: (one.slug, one.exit_code) for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.MillisError) and one is not errors.MillisError
    }  # fmt: skip
    told = {name.strip("`"): (slug.strip("`"), int(code)) for name, slug, code, _ in read_table("reference/errors.md", head="class")}
    assert told == known | {"InvalidRequest": ("the problem's", 2)}


def list_problems() -> Iterator[tuple[str, set[int]]]:
    """Give each slug that the code gives a problem, with the status that stands beside it; none where that is said elsewhere."""
    for file in (one for one in (ROOT / "src").rglob("*.py") if one.name != "errors.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            said = {one.arg: one.value for one in node.keywords} if isinstance(node, ast.Call) else {}
            values = [said["slug"]] if "slug" in said else []
            if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == "slug" for one in ast.walk(node.targets[0])):
                values = [node.value]
            is_usual = "status" not in said and isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "InvalidRequest"
            status = said.get("status", ast.Constant(400) if is_usual else None)
            for one in (found for value in values for found in ast.walk(value) if isinstance(found, ast.Constant)):
                if isinstance(one.value, str) and re.fullmatch("[a-z]+(-[a-z]+)*", one.value):
                    yield one.value, {int(status.value)} if isinstance(status, ast.Constant) else set()  # type: ignore[arg-type]


def test_every_problem_is_in_the_reference_with_its_status() -> None:
    told = {slug: status for slugs, status, _ in read_table("reference/errors.md", head="slug") for slug in re.findall("`([a-z-]+)`", slugs)}
    wrong = [(slug, statuses) for slug, statuses in list_problems() if slug not in told or any(str(one) != told[slug] for one in statuses)]
    assert wrong == []
    code = " ".join(file.read_text("utf-8") for file in (ROOT / "src").rglob("*.py"))
    assert [slug for slug in told if f'"{slug}"' not in code] == []


def test_every_public_name_is_in_the_reference() -> None:
    told = read(ROOT / "docs" / "reference" / "python.md")
    assert [name for name in millis.__all__ if f"`{name}`" not in told and f"`millis.{name}" not in told] == []
    for name, arguments in re.findall(r"`millis\.(\w+)\(([^`]*)\)`", told):
        known = signature(getattr(millis, name)).parameters
        given = [one.partition("=")[0].strip() for one in arguments.split(",")]
        assert [one for one in given if one != "..." and one not in known] == [], name


def test_every_metric_is_in_the_guide() -> None:
    told = read(ROOT / "docs" / "guides" / "watching.md").replace("millis_cache_*", "millis_cache_bytes millis_cache_hits millis_cache_misses")
    there = re.findall(r'"(millis_\w+)"', (ROOT / "src" / "millis" / "telemetry" / "metrics.py").read_text("utf-8"))
    assert len(there) > 20
    assert [name for name in there if name not in told] == []


def test_the_house_has_the_rooms_and_floors_that_the_linter_keeps() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    rooms = [name for name in contracts[0]["layers"] if name != "__main__"]
    told = [sorted(re.findall(r"`(\w+)`", cell.partition(":")[0])) for _, cell in read_table("concepts/house.md", head="floor")]
    assert told == [sorted(floor.split(" | ")) for floor in rooms]
