"""Writes `reference/files.md`: every file of the code, with a sentence of its docstring and its public names."""

from __future__ import annotations

import ast
from itertools import groupby
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "files.md"
_FOLDERS = "lit_triwave", "datamodules", "benchmarks", "examples"
_HEAD = """# All files of code

`python docs/list_files.py` writes this page. The last column has the classes, functions and constants for other files.
Scripts of jobs are in `slurm/`, tests in `tests/`, the script and style of `compare`'s page beside `page.py`.
[Questions and their answers](../contributing.md#where-things-are) are in Contributing.
"""


def page() -> str:
    """Returns the page."""
    parts = [_HEAD]
    for folder in _FOLDERS:
        files = [file for file in (REPOSITORY / folder).rglob("*.py") if file.name != "__init__.py"]
        files.sort(key=lambda file: (str(file.parent), file.name))
        for place, inside in groupby(files, lambda file: file.parent):
            head = [f"## {place.relative_to(REPOSITORY)}/", "", "| file | what it does | names |", "|---|---|---|"]
            parts.append("\n".join([*head, *map(_row, inside)]) + "\n")
    return "\n".join(parts)


def _row(file: Path) -> str:
    tree = ast.parse(file.read_text())
    found = dict.fromkeys(name for statement in tree.body for name in _names(statement))
    names = [f"`{name}`" for name in found if not name.startswith("_")]
    sentence = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split()).replace("|", "\\|")
    return f"| `{file.name}` | {sentence} | {', '.join(names)} |"


def _names(statement: ast.stmt) -> list[str]:
    """Returns the class, the function or the constants that a statement of a file defines."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [one.id for one in targets if isinstance(one, ast.Name) and one.id.isupper()]


if __name__ == "__main__":
    PAGE.write_text(page())
