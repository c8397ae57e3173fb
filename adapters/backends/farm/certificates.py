"""Certificates of a farm: an authority of its own, and one certificate for each role."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ....statemachine.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, Name

ROLES = ("scheduler", "worker", "client")
AUTHORITY, AUTHORITY_KEY = "ca.pem", "ca-key.pem"
SETTINGS = "dask.yaml"
_CLOCK_DIFFERENCE = timedelta(hours=1)
"""Certificates are valid from so long before now, for machines whose clocks are behind."""


def make_certificates(folder: Path, *, days: float) -> tuple[Path, ...]:
    """Make an authority and the certificates of all roles, valid for ``days``; the files.

    ``dask.yaml`` among them names the others, for Dask. Raises ConfigurationError where the folder
    has an authority already, or cryptography is missing; OSError.
    """
    _require_cryptography()
    if (folder / AUTHORITY).exists():
        raise ConfigurationError(
            f"{folder / AUTHORITY} exists: the farm has certificates; name another folder to make "
            "new ones for all machines"
        )
    folder.mkdir(parents=True, exist_ok=True)
    issuer = _Issuer(days)
    made = [
        _write(folder / AUTHORITY, issuer.certificate_pem()),
        _write(folder / AUTHORITY_KEY, _key_pem(issuer.key), is_secret=True),
    ]
    for role in ROLES:
        certificate, key = issuer.issue(role)
        made.append(_write(folder / f"{role}.pem", certificate))
        made.append(_write(folder / f"{role}-key.pem", key, is_secret=True))
    made.append(_write(folder / SETTINGS, _dask_settings(folder.absolute()).encode()))
    return tuple(made)


class _Issuer:
    """An authority that signs the certificates of one farm."""

    def __init__(self, days: float) -> None:
        self._begin = datetime.now(UTC) - _CLOCK_DIFFERENCE
        self._end = datetime.now(UTC) + timedelta(days=days)
        self.key = _new_key()
        self._certificate = self._signed(_AUTHORITY_NAME, self.key, is_authority=True)

    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return _pem(self._certificate)

    def issue(self, role: str) -> tuple[bytes, bytes]:
        """The certificate of a role, and its key."""
        key = _new_key()
        return _pem(self._signed(f"stagewright farm {role}", key, is_authority=False)), _key_pem(
            key
        )

    def _signed(
        self, name: str, key: EllipticCurvePrivateKey, *, is_authority: bool
    ) -> Certificate:
        from cryptography import x509  # noqa: PLC0415 - of the extra farm
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - the same

        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        signer = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder: CertificateBuilder = (
            x509.CertificateBuilder()
            .subject_name(_x509_name(name))
            .issuer_name(_x509_name(_AUTHORITY_NAME))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._begin)
            .not_valid_after(self._end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer),
                critical=False,
            )
        )
        return builder.sign(self.key, hashes.SHA256())


_AUTHORITY_NAME = "stagewright farm authority"


def _x509_name(name: str) -> Name:
    from cryptography import x509  # noqa: PLC0415 - of the extra farm
    from cryptography.x509.oid import NameOID  # noqa: PLC0415 - the same

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - of the extra farm

    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - see above

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - of the extra farm

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes, *, is_secret: bool = False) -> Path:
    mode = 0o600 if is_secret else 0o644
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    return path


def _dask_settings(folder: Path) -> str:
    """Dask's settings with these files; paths in them are absolute, because Dask needs that."""
    lines = [
        "# Dask's settings of TLS for a farm. Set DASK_CONFIG to this folder on each machine.",
        "# A machine needs ca.pem, and the certificate and key of its own role alone.",
        "distributed:",
        "  comm:",
        "    require-encryption: true",
        "    tls:",
        f"      ca-file: '{folder / AUTHORITY}'",
    ]
    for role in ROLES:
        lines += [
            f"      {role}:",
            f"        cert: '{folder / role}.pem'",
            f"        key: '{folder / role}-key.pem'",
        ]
    return "\n".join(lines) + "\n"


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401, PLC0415 - of the extra farm
    except ImportError as error:
        raise ConfigurationError(
            "certificates need the package cryptography, which is not installed: "
            "pip install 'stagewright[farm]'"
        ) from error
