"""Certificates of a farm: an authority of its own, and one certificate for each role.

Raises ConfigurationError where the package cryptography is not installed.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ....statemachine.errors import ConfigurationError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError as error:
    raise ConfigurationError(
        "certificates need the package cryptography, which is not installed: "
        "pip install 'stagewright[farm]'"
    ) from error

ROLES = ("scheduler", "worker", "client")
AUTHORITY, AUTHORITY_KEY = "ca.pem", "ca-key.pem"
SETTINGS = "dask.yaml"
_AUTHORITY_NAME = "stagewright farm authority"
_CLOCK_DIFFERENCE = timedelta(hours=1)
"""Certificates are valid from so long before now, for machines whose clocks are behind."""


def make_certificates(folder: Path, *, days: float) -> tuple[Path, ...]:
    """Make an authority and the certificates of all roles, valid for ``days``; the files.

    ``dask.yaml`` among them names the others, for Dask. Raises ConfigurationError where the folder
    has an authority already; OSError.
    """
    if (folder / AUTHORITY).exists():
        raise ConfigurationError(
            f"{folder / AUTHORITY} exists: the farm has certificates; name another folder to make "
            "new ones for all machines"
        )
    folder.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    made = [
        _write(folder / AUTHORITY, _certificate(_AUTHORITY_NAME, authority, authority, days)),
        _write(folder / AUTHORITY_KEY, _key_pem(authority), is_secret=True),
    ]
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(f"stagewright farm {role}", key, authority, days)
        made.append(_write(folder / f"{role}.pem", certificate))
        made.append(_write(folder / f"{role}-key.pem", _key_pem(key), is_secret=True))
    made.append(_write(folder / SETTINGS, _dask_settings(folder.absolute()).encode()))
    return tuple(made)


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: ec.EllipticCurvePrivateKey,
    days: float,
) -> bytes:
    """The certificate of a key, signed by the authority; that of the authority signs others."""
    is_authority = key is authority
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
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_x509_name(name))
        .issuer_name(_x509_name(_AUTHORITY_NAME))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_DIFFERENCE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(subject, critical=False)
        .add_extension(issuer, critical=False)
    )
    signed = builder.sign(authority, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def _x509_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
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
