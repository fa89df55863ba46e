"""Who rides along: quick requests that a worker is sent together, to be run one after another.

    queue ─▶ dispatch ──▶ the first runs ──▶ done ──▶ the next rider runs ──▶ …
      ▲          └─ riders ─┘                              │
      └──────────────── given back, not begun ◀────────────┘

A message to a worker and back costs more than a quick request, so where more requests wait than
workers are free, a worker gets several at once: as many as it does in `BUDGET` seconds, going by how
long those of their kind have taken, but no more than its share of those that wait. It gets more before
it has done them all, so that it need not wait.

Who rides has not begun: if the one that runs takes long, riders are taken back and wait again, at the
head, as if nothing had been.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

__all__ = ["BUDGET", "MOST", "Paces"]

BUDGET: Final = 0.005
"""How long what a worker is sent at once should take, in seconds."""
MOST: Final = 64
"""How many riders are sent at once."""

_MOST_KINDS = 256
# A busy machine makes some of them seem slow that are not. Should one be, the others are taken back.
_QUICKER, _SLOWER = 0.5, 0.1


class Paces:
    """How long requests of a kind have taken of late, in seconds. The least recently used give way."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, float] = OrderedDict()

    def learn(self, kind: Hashable, seconds: float) -> None:
        """One of this kind has taken so long."""
        known = self._known
        before = known.get(kind)
        if before is None:
            known[kind] = seconds
            if len(known) > _MOST_KINDS:
                known.popitem(last=False)
        else:
            weight = _SLOWER if seconds > before else _QUICKER
            known[kind] = before + weight * (seconds - before)
            known.move_to_end(kind)

    def of(self, kind: Hashable) -> float:
        """How long the next one will probably take: for ever, if nothing is known."""
        return self._known.get(kind, _UNKNOWN)


_UNKNOWN = float("inf")
