"""Hook of mkdocs for pages that show files of the repository.

`{include FILE}` stands for a file, with its links seen from `docs/`.
`{configs FOLDER}` stands for all configs in a folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with the files in it."""
    markdown = re.sub(r"^\{include (\S+)\}$", lambda found: _text(found[1]), markdown, flags=re.MULTILINE)
    return re.sub(r"^\{configs (\S+)\}$", lambda found: _configs(found[1]), markdown, flags=re.MULTILINE)


def _text(file: str) -> str:
    return (REPOSITORY / file).read_text().replace("](docs/", "](")


def _configs(folder: str) -> str:
    files = sorted((REPOSITORY / folder).glob("*.yaml"))
    return "\n".join(f'```yaml title="{folder}/{file.name}"\n{file.read_text()}```\n' for file in files)
