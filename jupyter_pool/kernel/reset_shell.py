"""The IPython shell's part of the reset: namespace, history, what was registered."""

from __future__ import annotations

import builtins
import linecache
import operator
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from IPython.core.builtin_trap import BuiltinUndefined

__all__ = ["ShellBaseline"]

# What these packages register when they are imported belongs to the module, which
# stays imported: without it, a warm worker would show no more figures.
_KEPT = ("matplotlib.", "matplotlib_inline.", "IPython.core.pylabtools.", "ipywidgets.")

_SETTINGS = (
    "ast_node_interactivity",
    "autoawait",
    "autocall",
    "automagic",
    "loop_runner",
    "custom_exceptions",
    "colors",
    "pdb",
    "sphinxify_docstring",
    "show_rewritten_input",
    "wildcards_case_sensitive",
    "enable_html_pager",
    "active_eventloop",
    "pylab_gui_select",
)

#: What a history keeps of cells, and what is in it before the first one.
_HISTORY: dict[str, Any] = {
    "input_hist_parsed": [""],
    "input_hist_raw": [""],
    "output_hist": {},
    "output_hist_reprs": {},
    "exceptions": {},
    "db_input_cache": [],
    "db_output_cache": [],
    "_i": "",
    "_ii": "",
    "_iii": "",
    "_i00": "",
}


class ShellBaseline:
    """What an IPython shell looks like before any request.

    Leans on InteractiveShell's attributes as named in the methods, the display
    hook's `_`, `__`, `___`, and HistoryManager's lists (checked on IPython 9.18).
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        #: IPython's history of working folders, as it begins.
        self.folders: list[Path] = []
        self._main = sys.modules.get("__main__")
        self._namespace = dict(shell.user_ns)
        self._hidden = dict(shell.user_ns_hidden)
        # The lists and dicts that are shallow-copied, and put back when they differ.
        self._tables = list(self._find_tables())
        self._tables_before = [dict(table) for table in self._tables]
        # Most are empty, which is seen quicker than that they are equal.
        self._empty = [table for table in self._tables if not table]
        self._filled = [table for table in self._tables if table]
        self._filled_before = [table for table in self._tables_before if table]
        self._lists = list(self._find_lists())
        #: What libraries have put into those lists, in the order in which that was first seen.
        self._kept_order: list[Any] = []
        self._lists_before = [list(items) for items in self._lists]
        self._extensions = set(shell.extension_manager.loaded)
        # Recent IPython loads its magics on first use, and notes here which it has.
        self._loaded_lazy = set(getattr(shell.magics_manager, "_loaded_lazy", ()))
        self._settings = {name: getattr(shell, name) for name in _SETTINGS if hasattr(shell, name)}
        self._set_traits = [name for name in self._settings if name in shell._trait_values]
        self._set_otherwise = [name for name in self._settings if name not in shell._trait_values]
        self._traits_set = [self._settings[name] for name in self._set_traits]
        history = shell.history_manager
        history.trait_values()  # computes the defaults: `dir_hist` is the present folder
        names = [name for name in _HISTORY if name in history._trait_values]
        self._look_at_history = operator.itemgetter(*names)
        self._no_history = tuple(_HISTORY[name] for name in names)
        self._custom_tb = shell.__dict__.get("CustomTB")
        self._traceback_mode = shell.InteractiveTB.mode
        self._configurables = list(self._find_configurables())
        self._traits_before = [_read_traits(owner) for owner in self._configurables]
        self._traits = [owner._trait_values for owner in self._configurables]

    def renewed(self) -> ShellBaseline:
        """The baseline that has the present namespace, and whatever else is registered by now."""
        shell = self._shell
        sources = {
            name: linecache.cache[name]
            for name in shell.compile._filename_map
            if name in linecache.cache
        }
        self._forget_cells()
        linecache.cache.update(sources)  # for the tracebacks of what these cells have defined
        renewed = ShellBaseline(shell)
        renewed.folders = self.folders
        renewed._kept_order = self._kept_order
        return renewed

    def _find_tables(self) -> Iterator[dict[Any, Any]]:
        shell = self._shell
        yield from shell.magics_manager.magics.values()
        yield shell.magics_manager.registry
        yield shell.magics_manager.lazy_magics
        yield vars(shell.hooks) if not isinstance(shell.hooks, dict) else shell.hooks
        formatters = [
            *shell.display_formatter.formatters.values(),
            shell.display_formatter.ipython_display_formatter,
            shell.display_formatter.mimebundle_formatter,
        ]
        for formatter in formatters:
            yield formatter.singleton_printers
            yield formatter.type_printers
            yield formatter.deferred_printers

    def _find_configurables(self) -> Iterator[Any]:
        """What %config, %precision and the like set traits of."""
        shell = self._shell
        yield from shell.display_formatter.formatters.values()
        yield shell.display_formatter.ipython_display_formatter
        yield shell.display_formatter.mimebundle_formatter
        yield shell.display_formatter
        yield shell.Completer
        yield shell.prefilter_manager

    def _find_lists(self) -> Iterator[list[Any]]:
        shell = self._shell
        yield from shell.events.callbacks.values()
        transformers = shell.input_transformer_manager
        yield transformers.cleanup_transforms
        yield transformers.line_transforms
        yield transformers.token_transformers
        yield shell.input_transformers_post
        yield shell.ast_transformers
        yield shell.configurables

    def restore(self) -> str | None:
        """Put everything back; costs microseconds where nothing changed.

        Returns
        -------
        str or None
            Why the process must be replaced.
        """
        shell = self._shell
        if any(self._empty) or self._filled != self._filled_before:
            self._restore_tables()
        if self._lists != self._lists_before:
            self._restore_lists()
        traits = shell._trait_values  # past traitlets: a fifth of the time
        if traits["extension_manager"].loaded != self._extensions:
            shell.extension_manager.loaded = set(self._extensions)
        loaded_lazy: set[str] = getattr(traits["magics_manager"], "_loaded_lazy", set())
        if loaded_lazy != self._loaded_lazy:
            loaded_lazy.intersection_update(self._loaded_lazy)
        if list(map(traits.get, self._set_traits)) != self._traits_set:
            self._restore_settings(self._set_traits)
        self._restore_settings(self._set_otherwise)
        if shell.__dict__.get("CustomTB") is not self._custom_tb:
            shell.CustomTB = self._custom_tb
        if shell.InteractiveTB.mode != self._traceback_mode:
            shell.InteractiveTB.set_mode(self._traceback_mode)
        if self._traits != self._traits_before:
            for owner, before in zip(self._configurables, self._traits_before, strict=True):
                _write_traits(owner, before)
        if shell.logger.log_active:
            shell.logger.logstop()
        self._restore_traps()
        self._forget_cells()
        self._restore_namespace()
        if getattr(shell.kernel, "eventloop", None) is not None:
            return "it started a GUI's event loop"
        return None

    def _restore_settings(self, names: Iterable[str]) -> None:
        for name in names:
            value = self._settings[name]
            if getattr(self._shell, name) != value:
                setattr(self._shell, name, value)

    def _restore_tables(self) -> None:
        for table, before in zip(self._tables, self._tables_before, strict=True):
            if table != before:
                kept = {key: value for key, value in table.items() if _is_kept(value)}
                table.clear()
                table.update(before)
                table.update({key: value for key, value in kept.items() if key not in before})

    def _restore_lists(self) -> None:
        for items, before in zip(self._lists, self._lists_before, strict=True):
            if items != before:
                kept = [item for item in items if item not in before and _is_kept(item)]
                seen = self._kept_order
                seen += [item for item in kept if item not in seen]
                # Taken back and registered again by a request, it would come after the others.
                items[:] = [*before, *sorted(kept, key=seen.index)]

    def _restore_traps(self) -> None:
        # An interrupt in the wrong microsecond may have skipped their exit.
        traits = self._shell._trait_values
        builtin, display = traits["builtin_trap"], traits["display_trap"]
        if builtin._nested_level:
            builtin._nested_level = 0
            # Not by its `deactivate`, which fails if it was that which was cut short.
            for name, before in builtin._orig_builtins.items():
                if before is BuiltinUndefined:
                    vars(builtins).pop(name, None)
                else:
                    setattr(builtins, name, before)
            builtin._orig_builtins.clear()
        if display._nested_level:
            display._nested_level = 0
            display.unset()

    def _forget_cells(self) -> None:
        """Drop history and results, and the cells' sources, which would pile up."""
        shell = self._shell
        # Traits that nobody observes, past traitlets: a fifth of the whole reset otherwise.
        traits = shell._trait_values
        traits.update(execution_count=1, last_execution_result=None, last_execution_succeeded=True)
        shell._last_traceback = None
        # The formatter of tracebacks keeps the last one, and with it its frames.
        if getattr(shell.InteractiveTB, "tb", None) is not None:
            shell.InteractiveTB.tb = None
        hook = shell.displayhook
        hook._ = hook.__ = hook.___ = ""
        hook.exec_result = None
        hook.msg = None
        manager = traits["history_manager"]
        history = manager._trait_values
        if self._look_at_history(history) != self._no_history:
            _empty_history(history)
        if outputs := getattr(manager, "outputs", None):  # IPython 9
            outputs.clear()
        if history["dir_hist"] != self.folders:
            history["dir_hist"][:] = self.folders
        if traits["payload_manager"]._payload:
            shell.payload_manager.clear_payload()
        shell.compile.reset_compiler_flags()
        cells = shell.compile._filename_map
        for name in cells:
            linecache.cache.pop(name, None)
        cells.clear()
        if shell._main_mod_cache:
            shell.clear_main_mod_cache()

    def _restore_namespace(self) -> None:
        shell = self._shell
        if sys.modules.get("__main__") is not self._main and self._main is not None:
            sys.modules["__main__"] = self._main
        namespace = shell.user_ns
        # Finalizers run here, and may write into the namespace again.
        for _ in range(3):
            namespace.clear()
            if not namespace:
                break
        namespace.update(self._namespace)
        hidden = shell.user_ns_hidden
        if hidden != self._hidden:
            hidden.clear()
            hidden.update(self._hidden)


def _empty_history(history: dict[str, Any]) -> None:
    for name in _HISTORY.keys() & history.keys():
        empty = _HISTORY[name]
        if isinstance(empty, dict):
            history[name].clear()
        elif isinstance(empty, list):
            history[name][:] = empty
        else:
            history[name] = empty


def _read_traits(owner: Any) -> dict[str, Any]:
    owner.trait_values()  # computes the defaults that nobody has asked for yet
    return dict(owner._trait_values)  # HasTraits' own store (traitlets 5)


def _write_traits(owner: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if owner._trait_values.get(name, values) != value:
            setattr(owner, name, value)


def _is_kept(value: Any) -> bool:
    function = getattr(value, "func", value)  # a partial
    if not isinstance(function, (FunctionType, MethodType)):
        return False
    return f"{function.__module__}.".startswith(_KEPT)
