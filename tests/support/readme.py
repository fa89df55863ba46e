"""The README as data: its commands, its code, its tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def fences(language: str) -> list[str]:
    """The contents of the code blocks in this language, in order."""
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def python_blocks() -> list[str]:
    return [code for code in fences("python") if "%" not in code]


def notebook_blocks() -> list[str]:
    """The blocks that are cells: each has a magic."""
    return [code for code in fences("python") if "%" in code]


def commands() -> list[str]:
    return [line for block in fences("sh") for line in block.splitlines() if line.strip()]


def table(first_header: str) -> list[list[str]]:
    """The rows, without the header, of the table whose first header cell is this."""
    lines = iter(README.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if _cells(line)[:1] == [first_header]:
            next(lines)  # the rule below the header
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            return rows
    raise AssertionError(f"README has no table that begins with {first_header!r}")


def code_words(cell: str) -> list[str]:
    """What is in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if "|" in line else []
