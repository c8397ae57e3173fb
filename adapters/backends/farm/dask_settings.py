"""Dask distributed, loaded without its log, and its own settings as far as a farm needs them.

Only farms load it. Every module takes ``dask`` and ``distributed`` from here. Raises
ConfigurationError where they are not installed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from typing import Any, Literal

from ....statemachine.errors import ConfigurationError
from .addresses import ENCRYPTED, PLAIN

_LOGGERS = ("distributed", "distributed.client", "tornado.application")
_SILENT = logging.CRITICAL + 1
"""Dask logs each message that it cannot read as critical, with a traceback."""

try:
    import dask as dask

    # What goes wrong is reported by our own errors; -vv, or ``logging`` in Dask's settings, shows
    # what Dask says. A program that has loaded it before has set its log.
    _is_wanted = logging.getLogger("stagewright.farm").isEnabledFor(logging.DEBUG)
    if "distributed" not in sys.modules and not (_is_wanted or dask.config.get("logging", None)):
        dask.config.set(logging=dict.fromkeys(_LOGGERS, _SILENT))
        warnings.filterwarnings("ignore", module=r"distributed\b")
    import distributed as distributed
except ImportError as error:
    raise ConfigurationError(
        "a farm needs Dask distributed, which is not installed: pip install 'stagewright[farm]'"
    ) from error

Role = Literal["scheduler", "worker", "client"]
_ANSWER_S = 2.0


def default_scheme(role: Role) -> str:
    """``tls`` if Dask's settings have a certificate for the role, else ``tcp``."""
    certificate = dask.config.get(f"distributed.comm.tls.{role}.cert", None)
    return ENCRYPTED if certificate else PLAIN


def security_for(role: Role, scheme: str) -> Any:
    """Dask's ``Security`` of its settings, checked for one role. Raises ConfigurationError."""
    if scheme != ENCRYPTED:
        if dask.config.get("distributed.comm.require-encryption", None):
            raise ConfigurationError(
                "Dask's settings require TLS (distributed.comm.require-encryption): use a tls:// "
                "address"
            )
        return distributed.Security()
    if default_scheme(role) != ENCRYPTED:
        raise ConfigurationError(
            f"TLS needs a certificate of the {role}, and Dask's settings have none "
            f"(distributed.comm.tls.{role}.cert): set DASK_CONFIG to the folder that "
            "`stagewright farm certificates` made"
        )
    try:
        found = distributed.Security(require_encryption=True)
        found.get_connection_args(role)
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        raise ConfigurationError(
            f"the certificate of the {role} in Dask's settings (distributed.comm.tls) cannot be "
            f"used: {error}"
        ) from error
    return found


async def reach(address: str, security: Any, role: Role, timeout_s: float) -> None:
    """Connect to a scheduler, and leave again; Dask waits for an answer forever. Raises OSError."""
    arguments = security.get_connection_args(role)
    connecting = distributed.core.connect(address, timeout=timeout_s, **arguments)
    try:
        comm = await asyncio.wait_for(connecting, timeout_s + _ANSWER_S)
    except TimeoutError as error:
        if str(error):
            raise
        raise TimeoutError("it does not answer") from error
    await comm.close()
