"""The way to a Ray cluster: where this process is in one, at an address, or made here."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...probe.errors import LimelightError

_WORDS = ("auto", "local")
_PATIENCE = 5.0  # seconds within which a cluster answers
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4  # the type of the frame that HTTP/2, which Ray speaks, answers with


@contextmanager
def joined(ray: Any, address: str | None) -> Iterator[None]:
    """Ray connected, and left as it was found. Raises LimelightError where nothing answers.

    address  host:port, `ray://host:port` or `auto`; None is the environment's RAY_ADDRESS, else
             a cluster of this machine alone that ends with the work
    """
    if ray.is_initialized():
        _same(ray, address)
        yield
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where not in _WORDS:
        _answers(where)
    try:
        ray.init(
            address=where,
            include_dashboard=False if where == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise LimelightError(_none(where, " ".join(str(error).split()))) from error
    try:
        yield
    finally:
        ray.shutdown()


def _same(ray: Any, address: str | None) -> None:
    """Refuse an address where this process is in another cluster."""
    current = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", current):
        raise LimelightError(
            f"a Ray cluster at {address!r} was asked for, but this process is in the one at "
            f"{current!r}: call ray.shutdown() first, or leave the address out"
        )


def _answers(address: str) -> None:
    """Greet a server as gRPC does: ray.init itself waits minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise LimelightError(
            f"the address of a Ray cluster is host:port, as head:6379, or auto, not {address!r}"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as line:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            line.sendall(_GREETING)
            head = line.recv(9)
    except (OSError, OverflowError) as error:
        raise LimelightError(_none(address, str(error))) from error
    if len(head) < 4 or head[3] != _SETTINGS:
        raise LimelightError(_none(address, "what listens there is no Ray"))


def _none(address: str, reason: str) -> str:
    return (
        f"no Ray cluster answers at {address!r} ({reason.rstrip('.')}): start one with `ray start "
        "--head`, or leave the address out to run on this machine"
    )
