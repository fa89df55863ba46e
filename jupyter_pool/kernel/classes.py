"""Classes that came by value and stay: what lives from request to request knows its own again.

cloudpickle remembers the classes that it has made, by an id that their owner gave them, so that two
pickles mean the same class. The reset makes it forget, or a class sent again with other methods would
be the old one. A live program, or what a setup has made, goes on to use its classes: an input of such
a class must be one for it, and what it returns must be one for its owner.

Leans on cloudpickle's two trackers of dynamic classes (checked on cloudpickle 3.0 and 3.1).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["CLASSES"]


class Classes:
    """cloudpickle's memory of classes, in this process."""

    def __init__(self) -> None:
        self._kept: dict[str, type] = {}

    def known(self) -> dict[str, type]:
        """The classes that it knows now, by id."""
        by_id, _ = _trackers()
        return {} if by_id is None else dict(by_id)

    def since(self, before: Mapping[str, type]) -> dict[str, type]:
        """Those that it knows now and did not know, or only as others."""
        return {key: cls for key, cls in self.known().items() if before.get(key) is not cls}

    def recall(self, classes: Mapping[str, type]) -> None:
        """Have it know these, until the next reset."""
        by_id, by_class = _trackers()
        if classes and by_id is not None and by_class is not None:
            by_id.update(classes)
            by_class.update({cls: key for key, cls in classes.items()})

    def keep(self) -> None:
        """What it knows now it knows after each reset."""
        self._kept = self.known()

    def reset(self) -> None:
        """Forget all but what is kept."""
        if "cloudpickle.cloudpickle" not in sys.modules:  # quicker than to look for its trackers
            return
        for tracker in _trackers():
            if tracker:
                tracker.clear()
        self.recall(self._kept)


def _trackers() -> tuple[Any, Any]:
    module = sys.modules.get("cloudpickle.cloudpickle")
    return (
        getattr(module, "_DYNAMIC_CLASS_TRACKER_BY_ID", None),
        getattr(module, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", None),
    )


#: The one of this process.
CLASSES = Classes()
