"""Entry point of a worker: ``python -m jupyter_pool.kernel -f connection_file``."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # `-m` puts the working folder first on the path, where a user's `random.py`
    # would be taken for the standard library's. IPython adds it again, as '',
    # once everything of ours is imported.
    try:
        here = os.getcwd()
    except OSError:
        here = ""
    if sys.path and sys.path[0] in ("", here):
        del sys.path[0]

    from jupyter_pool.kernel.app import main

    main()
