"""The notebook in the repository: it was executed from the top, without an error, and the names it uses are there."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import millis
from making import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read_cells(file: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_every_cell_was_run_in_order_and_none_failed(file: Path) -> None:
    cells = read_cells(file)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    said = json.dumps(outputs)
    assert "'status': 'kept'" in said
    assert "Traceback" not in said
    assert str(ROOT) not in said, "it names no folder of the machine it ran on"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_what_it_uses_of_millis_is_there(file: Path) -> None:
    source = "\n".join("".join(cell["source"]) for cell in read_cells(file))
    tree = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith(("!", "%"))))
    used = {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "millis"
    }  # fmt: skip
    assert {"fit", "load", "Contract", "Client"} <= used
    assert not [name for name in used if not hasattr(millis, name) and name != "errors"]


def test_there_is_a_notebook() -> None:
    assert [file.name for file in NOTEBOOKS] == ["from-csv-to-served.ipynb"]
