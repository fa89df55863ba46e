"""The kernel side of JupyterLab's panel: pools go out on iopub, orders come in on control.

panel ── pool_hello, pool_command (control) ──▶ Panel ── orders ──▶ the pools' engines
  ▲                                               │
  └── pool_list, pool_state, pool_notice (iopub) ─┘

Both ways pass by the main thread, so that the panel is live while cells run. Nobody is asked anything
and nothing is told where there is no pool; to a kernel that no panel has greeted, only that pools have
come or gone is told, by which a panel learns that there is something to greet. What answering it takes
is not imported before that: loading the extension does not wait for it. From then on the one publisher
thread sends what changes, and everything there is once more when somebody new listens: a
page that was loaded anew.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from jupyter_pool.engine import onlookers
from jupyter_pool.engine.log import LOGGER
from jupyter_pool.engine.registry import get_pool, list_pools
from jupyter_pool.errors import InvalidRequest, PoolError

from .publishing import publish

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .feed import Feed, State
    from .pools import Pools

__all__ = ["Panel", "open_panel"]

#: Unloading waits so long for the publisher's thread, in seconds.
_PATIENCE = 5.0


def open_panel(shell: InteractiveShell, pools: Pools) -> Panel | None:
    """Let panels in, where there is a kernel whose front ends could have one."""
    kernel = getattr(shell, "kernel", None)
    if not hasattr(kernel, "control_handlers") or not hasattr(kernel, "iopub_socket"):
        return None
    return Panel(kernel, pools)


class Panel:
    """What the panels of all front ends of a kernel talk to.

    Parameters
    ----------
    kernel
        ipykernel's. Leans on its `control_handlers`, and on how it hears of subscriptions to iopub
        (checked on ipykernel 7.4).
    pools
        Start the pool that somebody asks for.
    """

    def __init__(self, kernel: Any, pools: Pools) -> None:
        self._kernel = kernel
        self._pools = pools
        self._feeds: dict[str, Feed] = {}
        self._lock = threading.Lock()
        # Under the lock: what front ends were told, and whether they are to be told everything.
        self._told: list[str] = []
        self._whole = False
        #: Whether a panel has said that it is there.
        self.greeted = False
        kernel.control_handlers["pool_hello"] = self._hello
        kernel.control_handlers["pool_command"] = self._command
        self._subscriptions = _Subscriptions(kernel, self._somebody_listens)
        onlookers.listen(self._pools_changed)
        self._pools_changed()

    def close(self) -> None:
        """Take everything out of the kernel again."""
        onlookers.listen(None)
        self._subscriptions.close()
        for name in ("pool_hello", "pool_command"):
            self._kernel.control_handlers.pop(name, None)
        if self.greeted:
            from .feed import publisher

            publisher.detach(self)
            publisher.join(_PATIENCE)

    # -- what goes out -------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Send what has changed; from the publisher's thread."""
        from .feed import Feed

        with self._lock:
            whole, self._whole = self._whole, False
        names = self._names()
        self._tell_list(names, again=whole)
        for name in self._feeds.keys() - set(names):
            del self._feeds[name]
        for name in names:
            if name not in self._feeds:
                self._feeds[name] = Feed(lambda name=name: name)  # type: ignore[misc]
        lively = False
        for source in self._feeds.values():
            state = source.whole() if whole else source.next()
            if state is not None and state["state"] != "none":  # gone since: the list will say so
                self._send("pool_state", state)
            lively = lively or source.lively
        return lively

    def _names(self) -> list[str]:
        """Of the pools there are, with those that are closing: they are shown to their end."""
        closing = [name for name, source in [*self._feeds.items()] if source.closing]
        return sorted({*list_pools(), *closing})

    def _pools_changed(self) -> None:
        """In whatever thread: a pool has come or gone."""
        if self.greeted:
            return  # the publisher has been woken
        try:
            self._tell_list(list_pools())
        except Exception:  # noqa: BLE001 - a kernel that ends must not keep a pool from closing
            LOGGER.debug("cannot tell front ends which pools there are", exc_info=True)

    def _somebody_listens(self) -> None:
        """On ipykernel's iopub thread: a front end has subscribed."""
        if self.greeted:
            self._tell_all()
        elif names := list_pools():
            self._tell_list(names, again=True)

    def _tell_all(self) -> None:
        with self._lock:
            self._whole = True
        from .feed import publisher

        publisher.hurry()

    def _tell_list(self, names: list[str], *, again: bool = False) -> None:
        with self._lock:
            if names == self._told and not (again and (names or self.greeted)):
                return
            self._told = names
        self._send("pool_list", {"v": onlookers.VERSION, "pools": names})

    def _send(self, kind: str, content: State) -> None:
        publish(self._kernel, kind, content, {}, kind.encode())

    def _notice(self, pool: str, text: str) -> None:
        self._send("pool_notice", {"v": onlookers.VERSION, "pool": pool, "text": text})

    # -- what comes in -------------------------------------------------------------------------

    async def _hello(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """A panel looks at this kernel: from now on its pools' states are sent."""
        from jupyter_pool.config import PoolConfig

        from .feed import publisher

        self.greeted = True
        content = {
            "status": "ok",
            "v": onlookers.VERSION,
            "pools": self._names(),
            "default": self._pools.default,
            "size": PoolConfig.build().size,
        }
        self._kernel.session.send(stream, "pool_hello_reply", content, parent, ident)
        publisher.attach(self)
        self._tell_all()

    async def _command(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """An order: handed on or refused, with the reason, at once."""
        content: dict[str, Any] = {"status": "ok"}
        try:
            self._obey(parent["content"])
        except PoolError as error:
            content = _refusal(error)
        except Exception as error:  # noqa: BLE001 - a front end's message must not harm the kernel
            LOGGER.warning("the panel's order %r failed", parent.get("content"), exc_info=True)
            content = _refusal(error)
        self._kernel.session.send(stream, "pool_command_reply", content, parent, ident)

    def _obey(self, content: dict[str, Any]) -> None:
        version = content.get("v")
        if version != onlookers.VERSION:
            raise InvalidRequest(
                f"the panel speaks version {version!r} and this kernel's jupyter_pool version "
                f"{onlookers.VERSION}: install the same jupyter-pool for both, then reload the page"
            )
        name, command = content.get("pool"), content.get("command")
        if not isinstance(name, str) or not isinstance(command, dict):
            raise InvalidRequest(f"a command needs 'pool' and 'command', not {content!r}")
        order = command.get("type")
        if order == "start":
            self._start(name)
        else:
            from .orders import carry_out

            source = self._feeds.get(name)
            carry_out(get_pool(name) if source is None else source.pool(), order, command)

    def _start(self, name: str) -> None:
        if name != self._pools.default:
            raise InvalidRequest(
                f"only the magics' own pool, {self._pools.default!r}, can be started from here, "
                f"not {name!r}: %pool_start --name {name}"
            )
        if name in list_pools():
            raise InvalidRequest(f"pool {name!r} is there already")
        # It takes a while, and other orders are not to wait for it.
        threading.Thread(
            target=self._start_now, args=(name,), name="jupyter_pool panel start", daemon=True
        ).start()

    def _start_now(self, name: str) -> None:
        try:
            self._pools.for_running(name)
        except (PoolError, UsageError) as error:
            self._notice(name, f"Cannot start: {_first_line(error)}")
        except Exception as error:  # noqa: BLE001 - whoever clicked should hear of it
            LOGGER.warning("the panel cannot start pool %r", name, exc_info=True)
            self._notice(name, f"Cannot start: {type(error).__name__}: {error}")


class _Subscriptions:
    """Hears of every new listener on a kernel's iopub.

    ipykernel (7.4) reads subscriptions from its XPUB socket, which by default tells of a topic's first
    subscriber only: the Jupyter server itself.
    """

    def __init__(self, kernel: Any, heard: Any) -> None:
        self._thread: Any = getattr(kernel, "iopub_thread", None)
        self._heard = heard
        self._set(self._handle, verbose=True)

    def close(self) -> None:
        self._set(None, verbose=False)

    def _set(self, handler: Any, *, verbose: bool) -> None:
        stream = getattr(self._thread, "_xpub_stream", None)
        if stream is None:
            return  # another kind of kernel: a panel asks when it is opened

        def change() -> None:  # on the thread whose socket it is
            import zmq

            self._thread.socket.setsockopt(zmq.XPUB_VERBOSE, int(verbose))
            stream.on_recv(handler or self._thread._handle_subscription)

        self._thread.schedule(change)

    def _handle(self, frames: list[bytes]) -> None:
        self._thread._handle_subscription(frames)
        if any(frame[:1] == b"\x01" for frame in frames):
            self._heard()


def _refusal(error: Exception) -> dict[str, Any]:
    name = type(error).__name__
    text = _first_line(error) if isinstance(error, PoolError) else f"{name}: {error}"
    return {"status": "error", "ename": name, "evalue": text, "traceback": []}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
