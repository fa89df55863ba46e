"""The README's table of options, written from config.py: ``python tests/support/option_table.py``."""

from __future__ import annotations

from pathlib import Path

from jupyter_pool.config import PoolConfig

README = Path(__file__).parents[2] / "README.md"
HEADER = "| option | default | |"

#: Defaults that depend on the machine.
_DEPENDS = {"size": "usable CPUs, at most 8"}


def option_table() -> str:
    """A row for each option: its name, its default, its help text."""
    config = PoolConfig()
    rows = []
    for name, trait in ((name, config.traits()[name]) for name in PoolConfig.option_names()):
        default = _DEPENDS.get(name) or f"`{_shown(getattr(config, name))}`"
        rows.append(f"| `{name}` | {default} | {_one_line(trait.help)} |")
    return "\n".join([HEADER, "|---|---|---|", *rows])


def current_table(text: str) -> str:
    """The table as the README has it."""
    start = text.index(HEADER)
    lines = text[start:].splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("|"))
    return "\n".join(lines[:end])


def _shown(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("*", r"\*")


if __name__ == "__main__":
    before = README.read_text(encoding="utf-8")
    README.write_text(before.replace(current_table(before), option_table()), encoding="utf-8")
