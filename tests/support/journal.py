"""What cells really did: a file to which each one appends its number the moment it runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path


class Journal:
    """Appends of a few bytes are whole, whoever writes at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    @property
    def code(self) -> str:
        """The beginning of a cell that has the input `n`: say so before anything else."""
        return (
            "import os as _os\n"
            f"_fd = _os.open({str(self.path)!r}, _os.O_WRONLY | _os.O_APPEND)\n"
            "_os.write(_fd, b'%d\\n' % n)\n"
            "_os.close(_fd)\n"
        )

    def runs(self) -> Counter[int]:
        """How often each number ran."""
        return Counter(map(int, self.path.read_text().split()))
