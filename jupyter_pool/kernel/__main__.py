"""Entry point of a worker: ``python -m jupyter_pool.kernel -f connection_file``."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Started with `-m`, the working folder is first on the path; started by path
    # (see `command`), this folder is. Neither must hide the standard library.
    # IPython adds the working folder again, as '', once ours is imported.
    try:
        here = os.getcwd()
    except OSError:
        here = ""
    if sys.path and sys.path[0] in ("", here, os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]

    from jupyter_pool.kernel.app import main

    main()
