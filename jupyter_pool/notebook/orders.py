"""What somebody who looks at a pool can have done to it: orders as plain data, from a front end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import InvalidRequest

from . import underway

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_pool.engine.face import PoolFace

__all__ = ["ORDERS", "carry_out"]

#: The orders, and what each needs: a name, and its type. As `Command` in ``src/protocol.ts``.
ORDERS: dict[str, tuple[tuple[str, type], ...]] = {
    "resize": (("size", int),),
    "drain": (),
    "stop": (),
    "restart": (("worker", int),),
    "cancel": (("request", str),),
    "cancel_job": (("job", str),),
    "end_session": (("session", str),),
}


def carry_out(pool: PoolFace, order: object, given: Mapping[str, Any]) -> None:
    """Hand an order to the pool's engine; what comes of it shows up in the pool's state.

    Raises
    ------
    InvalidRequest
        There is no such order, it lacks something, or the pool cannot do it.
    PoolError
        The pool is closed.
    """
    values = _values(order, given)
    if order == "resize":
        pool.order_resize(values["size"], None)
    elif order == "drain":
        pool.order_drain()
    elif order == "stop":
        pool.order_close()
    elif order == "restart":
        pool.order_restart(values["worker"])
    elif order == "cancel":
        pool.order_cancel(values["request"])
    elif order == "cancel_job":
        underway.cancel(pool, values["job"])
    else:
        session = values["session"]
        if not pool.order_end_session(session):
            raise InvalidRequest(f"pool {pool.name!r} has no session {session!r}")


def _values(order: object, given: Mapping[str, Any]) -> dict[str, Any]:
    needs = ORDERS.get(order) if isinstance(order, str) else None
    if needs is None:
        raise InvalidRequest(f"no such order: {order!r}; there are {', '.join(ORDERS)}")
    for name, kind in needs:
        value = given.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidRequest(
                f"{order!r} needs {name!r}, {'a number' if kind is int else 'a text'}, not {value!r}"
            )
    return {name: given[name] for name, _ in needs}
