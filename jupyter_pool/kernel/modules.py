"""Which of the imported modules are the user's own, and whether their files are still the same.

Imported modules stay warm, which is right as long as they are what an import would load now. So the
file of each *local* module (outside the standard library and site-packages) is looked at just before
its code runs, and again before the next request: a microsecond or two each. A worker with a module
that was edited, removed, or that is another file where the request runs, refuses the request.

Not noticed: data files that a module reads, changes in site-packages, and a file that takes the place
of an installed module of the same name.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["ModuleTable", "ModuleWatch", "is_local"]

# Modification time in nanoseconds, size, and inode: editors replace files as well as write to them.
_Stamp = tuple[int, int, int]


class ModuleTable:
    """`sys.modules`: what was imported stays; what was put there otherwise, or taken out, does not."""

    def __init__(self) -> None:
        #: Names of modules whose code was run by an import since `restore`.
        self.loaded: set[str] = set()
        self._known = dict(sys.modules)
        self._before: dict[str, ModuleType] = {}

    def import_begins(self) -> None:
        """What comes from here on is there by the doing of a module that stays."""
        self._before = dict(sys.modules)

    def import_ends(self) -> None:
        """Up to here."""
        before, self._before = self._before, {}
        for name, module in list(sys.modules.items()):
            if before.get(name) is not module:
                self._known[name] = module

    def adopt(self) -> None:
        """Keep what is there now."""
        self._known = dict(sys.modules)
        self.loaded.clear()

    def restore(self) -> None:
        """Put back what was there before, and whatever was imported since.

        A module that another one was put in the place of, without an import, is only put back when
        something else has changed as well: to compare hundreds of modules every time costs too much.
        """
        modules, known = sys.modules, self._known
        if not self.loaded and len(modules) == len(known):
            name, module = next(reversed(modules.items()))
            if known.get(name, known) is module:
                return
        for name, module in list(modules.items()):
            if known.get(name, known) is module:
                continue
            if name in self.loaded or name == "__main__":
                known[name] = module
            elif name in known:
                modules[name] = known[name]
            else:
                del modules[name]
        for name in known.keys() - modules.keys():
            modules[name] = known[name]
        self.loaded.clear()


class ModuleWatch:
    """The local modules of this process."""

    def __init__(self, preloaded: ModuleWatch | None = None) -> None:
        self._files: dict[str, tuple[str, _Stamp | None]] = {}
        #: As `_files`, of what was loaded before any request. Wherever that runs, these are the
        #: modules that were asked for: another file of the same name does not matter.
        self._preloaded: dict[str, tuple[str, _Stamp | None]] = {}
        if preloaded is not None:
            preloaded.settle()
            self._preloaded.update(preloaded._files)
        #: As `_files`, of what was loaded since `settle`.
        self._new: dict[str, tuple[str, _Stamp | None]] = {}
        #: Where a request looks for modules: path and working folder, as folders, and when the local
        #: ones of those last changed; and which modules were found to be the ones that it would find.
        self._place: tuple[Sequence[str], str] = ((), "")
        self._where: list[str] = []
        self._local: list[str] = []
        self._changed: list[int] = []
        self._compared: set[str] = set()

    def loading(self, spec: ModuleSpec) -> None:
        """A module's code is about to run, for the first time or again."""
        file = spec.origin
        if file is not None and spec.has_location and is_local(file):
            # Before the file is read: of an edit in between we only see too much, never too little.
            self._new[spec.name] = (file, _stamp(file))

    def torn(self, spec: ModuleSpec) -> None:
        """Of no interest."""

    def import_begins(self) -> None:
        """Of no interest."""

    def import_ends(self) -> None:
        """Of no interest."""

    def settle(self) -> None:
        """A request has ended: what was loaded by now will be found by the next one."""
        if self._new:
            new, self._new = self._new, {}
            for name, found in new.items():
                if name in sys.modules:  # else its import failed
                    self._files[name] = found
                    self._preloaded.pop(name, None)
                    self._compared.discard(name)

    def find_stale(self, path: Sequence[str], cwd: str) -> str | None:
        """Return which module a request with this `sys.path` and folder would load anew, and why."""
        edited = self.find_edited()
        if edited is not None:
            return edited
        return self._compare(path, cwd) if self._files else None

    def find_edited(self) -> str | None:
        """Return which module is not as it was loaded, and why."""
        self.settle()
        for files in (self._files, self._preloaded):
            for name, (file, stamp) in files.items():
                now = _stamp(file)
                if now != stamp:
                    return f"the module {name} was {'edited' if now else 'removed'}"
        return None

    def _compare(self, path: Sequence[str], cwd: str) -> str | None:
        """Whether the request would find other files than those that are loaded."""
        if self._place != (path, cwd):
            self._place = (list(path), cwd)
            self._where = [os.path.join(cwd, entry) for entry in path]
            self._local = [folder for folder in self._where if is_local(os.path.join(folder, ""))]
            self._compared.clear()
        changed = list(map(_when_changed, self._local))
        if changed != self._changed or time.time_ns() - max(changed, default=0) < _TICK:
            # Another file may be the first of its name by now.
            self._changed = changed
            self._compared.clear()
            for folder in self._local:
                # Finders keep what they list for as long as the folder's time is the same.
                finder = sys.path_importer_cache.get(folder)
                if finder is not None and hasattr(finder, "invalidate_caches"):
                    finder.invalidate_caches()
        if len(self._compared) == len(self._files):
            return None
        for name, (file, _) in self._files.items():
            if name in self._compared:
                continue
            # What it does not find at all, its own code may have put on the path before.
            spec = None if "." in name else PathFinder.find_spec(name, self._where)
            if spec is not None and spec.origin and not _is_same(spec.origin, file):
                return f"the module {name} is another file in the folders of the request"
            self._compared.add(name)
        return None


# Two changes that are closer than this, in nanoseconds, may have the same time.
_TICK = 50_000_000


def _when_changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _stamp(file: str) -> _Stamp | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _is_same(one: str, other: str) -> bool:
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False


def is_local(file: str) -> bool:
    """Whether a file is the user's own: not of Python, of something installed, or of the pool."""
    return not file.startswith(_FOREIGN) and not any(part in file for part in _INSTALLED)


def _foreign_folders() -> Iterator[str]:
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield sysconfig.get_path(name)
    yield from site.getsitepackages()
    yield site.getusersitepackages()
    yield os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


_FOREIGN = tuple(
    {
        os.path.join(form, "")
        for folder in _foreign_folders()
        for form in (os.path.abspath(folder), os.path.realpath(folder))
    }
)
_INSTALLED = tuple(
    f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages", "__pycache__")
)
