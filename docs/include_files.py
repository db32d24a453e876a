"""Hook of mkdocs: `{include FILE}` in a page stands for a file of the repository, with its links seen from `docs/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with the files in it."""
    return re.sub(r"^\{include (\S+)\}$", lambda found: _text(found[1]), markdown, flags=re.MULTILINE)


def _text(file: str) -> str:
    return (REPOSITORY / file).read_text().replace("](docs/", "](")
