"""Dask's own settings, as far as a farm depends on them. Dask is loaded by these functions."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any, Literal

from ....statemachine.errors import ConfigurationError

PLAIN, ENCRYPTED = "tcp", "tls"
Role = Literal["scheduler", "worker", "client"]
_LOGGERS = ("distributed", "distributed.client", "tornado.application")
_SILENT = logging.CRITICAL + 1
"""Dask logs each message that it cannot read as critical, with a traceback."""
_logger = logging.getLogger("stagewright.farm")


def require_dask() -> None:
    """Load Dask distributed, without its log. Raises ConfigurationError where it is missing.

    What goes wrong is reported by our own errors; -vv, or ``logging`` in Dask's settings, shows
    what Dask says.
    """
    if sys.modules.get("distributed") is not None:
        return
    try:
        import dask  # noqa: PLC0415 - no other command loads Dask

        if not (_logger.isEnabledFor(logging.DEBUG) or dask.config.get("logging", None)):
            dask.config.set(logging=dict.fromkeys(_LOGGERS, _SILENT))
            warnings.filterwarnings("ignore", module=r"distributed\b")
        import distributed  # noqa: F401, PLC0415 - the same
    except ImportError as error:
        raise ConfigurationError(
            "a farm needs Dask distributed, which is not installed: pip install 'stagewright[farm]'"
        ) from error


def default_scheme(role: Role) -> str:
    """``tls`` if Dask's settings have a certificate for the role, else ``tcp``."""
    require_dask()
    import dask  # noqa: PLC0415 - see require_dask

    certificate = dask.config.get(f"distributed.comm.tls.{role}.cert", None)
    return ENCRYPTED if certificate else PLAIN


def security_for(role: Role, scheme: str) -> Any:
    """Dask's ``Security`` of its settings, checked for one role. Raises ConfigurationError."""
    require_dask()
    import dask  # noqa: PLC0415 - see require_dask
    from distributed.security import Security  # noqa: PLC0415 - see require_dask

    if scheme != ENCRYPTED:
        if dask.config.get("distributed.comm.require-encryption", None):
            raise ConfigurationError(
                "Dask's settings require TLS (distributed.comm.require-encryption): use a tls:// "
                "address"
            )
        return Security()
    if default_scheme(role) != ENCRYPTED:
        raise ConfigurationError(
            f"TLS needs a certificate of the {role}, and Dask's settings have none "
            f"(distributed.comm.tls.{role}.cert): set DASK_CONFIG to the folder that "
            "`stagewright farm certificates` made"
        )
    try:
        found = Security(require_encryption=True)
        found.get_connection_args(role)
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        raise ConfigurationError(
            f"the certificate of the {role} in Dask's settings (distributed.comm.tls) cannot be "
            f"used: {error}"
        ) from error
    return found
