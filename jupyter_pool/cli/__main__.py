"""``python -m jupyter_pool.cli`` is `jupyter pool`."""

from __future__ import annotations

from jupyter_pool.cli import main

main()
