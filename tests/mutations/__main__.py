"""`python -m tests.mutations`: write docs/store-keys.md."""

from __future__ import annotations

from pathlib import Path

from tests.mutations.page import render

PAGE = Path(__file__).parents[2] / "docs" / "store-keys.md"

if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
