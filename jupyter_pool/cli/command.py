"""What all commands have in common: strict options, the pool's configuration, an exit code for misuse."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Generator, Iterable
from textwrap import indent
from typing import Any, ClassVar, NoReturn

from jupyter_core.application import JupyterApp
from traitlets import TraitError, Unicode, default
from traitlets.config.loader import KVArgParseConfigLoader
from traitlets.utils.text import wrap_paragraphs

from jupyter_pool import __version__
from jupyter_pool.config import PoolConfig

__all__ = ["MISUSE", "Command", "KernelPool", "is_installed"]

#: The exit code of whatever was asked for wrongly.
MISUSE = 2


class KernelPool(PoolConfig):
    """The options of a pool, under the name by which users know them."""

    @classmethod
    def class_get_help(cls, inst: Any = None) -> str:  # noqa: ARG003 - upstream's signature
        """Every option with its help text and default."""
        title = "KernelPool options"
        blocks = [f"{title}\n{'-' * len(title)}"]
        config = PoolConfig()
        for name in cls.option_names():
            value = (
                "" if name in ("name", "size", "env") else f" Default: {getattr(config, name)!r}"
            )
            text = (cls.class_traits()[name].help or "").strip()
            body = "\n".join(wrap_paragraphs(text + value, 76))
            blocks.append(f"--KernelPool.{name}=VALUE\n{indent(body, '    ')}")
        return "\n".join(blocks)

    @classmethod
    def option_names(cls) -> list[str]:
        """Return all options' names."""
        return PoolConfig.option_names()


class _Loader(KVArgParseConfigLoader):
    """Reads a command line; an option that there is not is a mistake, and no short form is guessed."""

    def __init__(self, *args: Any, complain: Callable[[str], NoReturn], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._complain = complain

    def _create_parser(self) -> None:
        kwargs: dict[str, Any] = self.parser_kw
        kwargs["allow_abbrev"] = False
        super()._create_parser()
        parser: Any = self.parser
        parser.error = self._misread

    def _misread(self, message: str) -> NoReturn:
        """Options as they were typed, not as they are called in a configuration file."""
        found = re.match(r"argument (--?[\w-]+): ", message)
        if found and found[1].lstrip("-") not in self._names():
            self._handle_unrecognized_alias(found[1].lstrip("-"))
        # Longest names first: a replaced one is not found again.
        for name, target in sorted(self.aliases.items(), key=lambda pair: -len(pair[0])):
            message = message.replace(f"--{target}", _dashed(name))
        self._complain(message.removeprefix("argument "))

    def _handle_unrecognized_alias(self, arg: str) -> NoReturn:
        self._complain(f"there is no option {_dashed(arg)}{_hint(arg, self._names())}")

    def _names(self) -> list[str]:
        return [*self.aliases, *self.flags]


class Command(JupyterApp):
    """One command. Its configuration file is ``jupyter_pool_config.py``, where Jupyter looks for them."""

    version = __version__
    option_description = ""
    flags: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]  # declared on the instance upstream
    aliases: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]
    classes: ClassVar[list[Any]] = []  # type: ignore[misc]

    config_file_name = Unicode(config=True, help="The name of the configuration file to load.")
    # A mistake in a configuration file must not be overlooked.
    raise_config_file_errors = True

    @default("config_file_name")
    def _default_config_file_name(self) -> str:
        return "jupyter_pool_config"

    def misuse(self, message: str) -> NoReturn:
        """Say on stderr what is wrong with what was asked for, and end."""
        command = self.name.replace("-", " ")
        said = message.replace("\n", f"\n{command}: ")
        sys.stderr.write(f"{command}: {said}\nSee `{command} --help`.\n")
        sys.exit(MISUSE)

    def hush(self) -> None:
        """What jupyter_client logs about a kernel's failed start is said by the error, and shorter."""
        self.log.setLevel(logging.CRITICAL)

    def parse_command_line(self, argv: Any = None) -> None:
        """As every Jupyter application, but nothing that is unknown is passed over."""
        argv = list(sys.argv[1:] if argv is None else argv)
        super().parse_command_line([part for word in argv for part in self._parted(word)])
        if self.subapp is None:
            self._check_sections()

    def _parted(self, word: str) -> tuple[str, ...]:
        """``-n4`` is ``-n 4``."""
        short = {name for names in self.aliases for name in _as_tuple(names) if len(name) == 1}
        glued = re.match(r"-(\w)([^=-].*)$", word)
        return (f"-{glued[1]}", glued[2]) if glued and glued[1] in short else (word,)

    def update_config(self, config: Any) -> None:
        """Take over a configuration; an impossible value is said, and ends the command."""
        try:
            super().update_config(config)
        except TraitError as error:
            self.misuse(str(error))

    def _create_loader(
        self, argv: Any, aliases: Any, flags: Any, classes: Any
    ) -> KVArgParseConfigLoader:
        return _Loader(
            argv,
            aliases,
            flags,
            classes=classes,
            log=self.log,
            subcommands=self.subcommands,
            complain=self.misuse,
        )

    def _check_sections(self) -> None:
        """Each ``--Section.option=`` must be one that somebody reads."""
        own = {
            cls.__name__: cls
            for cls in type(self).__mro__
            if hasattr(cls, "class_trait_names") and cls.__module__ != "traitlets.traitlets"
        }
        known: dict[str, Any] = {**own, **{cls.__name__: cls for cls in self.classes}}
        for section, options in self.cli_config.items():
            if section not in known:
                used = [cls.__name__ for cls in (type(self), *self.classes)]
                self.misuse(f"there is no option --{section}.…{_hint(section, used)}")
            names = known[section].class_trait_names(config=True)
            for name in options:
                if name not in names:
                    self.misuse(
                        f"there is no option --{section}.{name}{_hint(name, names, section)}"
                    )

    def emit_help(self, classes: bool = False) -> Generator[str, None, None]:
        """What it does, its options, examples; with `classes` also every option of a pool."""
        yield from self.emit_description()
        yield from self.emit_subcommands_help()
        yield from self.emit_options_help()
        takes_pool = KernelPool in self.classes
        if classes and takes_pool:
            yield KernelPool.class_get_help()
            yield ""
        yield from self.emit_examples()
        if takes_pool and not classes:
            yield "Every option of a pool may be given too, such as --KernelPool.preload=numpy, or in"
            yield "jupyter_pool_config.py: c.KernelPool.size = 4. To see them: --help-all."
            yield ""

    def emit_options_help(self) -> Generator[str, None, None]:
        """The options, without how they are spelled in a configuration file."""
        if not self.flags and not self.aliases:
            return
        yield "Options"
        yield "======="
        known: dict[str, Any] = {
            cls.__name__: cls for cls in (JupyterApp, type(self), *self.classes)
        }
        for names, target in self.aliases.items():
            section, _, option = target.partition(".")
            trait = known[section].class_traits()[option]
            value = trait.metadata.get("metavar", "VALUE")
            yield f"{_spellings(names)}={value}"
            yield from _help_lines(trait.help)
        for names, (_, text) in self.flags.items():
            yield _spellings(names)
            yield from _help_lines(text)
        yield ""


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _spellings(names: str | tuple[str, ...]) -> str:
    return ", ".join(map(_dashed, _as_tuple(names)))


def _help_lines(text: str) -> list[str]:
    return [indent(paragraph, "    ") for paragraph in wrap_paragraphs(text.strip(), 76)]


def is_installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def _dashed(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _hint(name: str, known: Iterable[str], section: str = "") -> str:
    close = difflib.get_close_matches(name, [str(word) for word in known], n=2)
    shown = [f"--{section}.{word}" if section else _dashed(word) for word in close]
    return f". Did you mean {' or '.join(shown)}?" if shown else ""
