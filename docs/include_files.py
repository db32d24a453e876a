"""Hook of mkdocs for pages that show files of the repository.

On a code host such a page is a sentence with a link; in the built documentation the files themselves are there:

- `This page is [FILE](path).` becomes the file, with its links as seen from `docs/`.
- `All files of [FOLDER](path).` becomes all configs in the folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with the files in it."""
    markdown = re.sub(r"^This page is \[(\S+)\]\(\S+\)\.$", lambda found: _text(found[1]), markdown, flags=re.MULTILINE)
    return re.sub(r"^All files of \[(\S+)\]\(\S+\)\.$", lambda found: _configs(found[1]), markdown, flags=re.MULTILINE)


def _text(file: str) -> str:
    return (REPOSITORY / file).read_text().replace("](docs/", "](")


def _configs(folder: str) -> str:
    files = sorted((REPOSITORY / folder).glob("*.yaml"))
    return "\n".join(f'```yaml title="{folder}/{file.name}"\n{file.read_text()}```\n' for file in files)
