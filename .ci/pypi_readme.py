"""The README as the package's description. A package index has neither the pages nor the pictures that the
README's relative links name, so a link becomes its text and its path, and a picture its alternative text.

Once the project has an address, the paths can become links again, here alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def without_relative_links(text: str) -> str:
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)[^)]+\)", r"*(In the source, a picture: \1)*", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", r"\1 (`\2`)", text)


class DescriptionHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": without_relative_links(text)}
