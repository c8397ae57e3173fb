"""Credentials in the forms that services publish; none of them opens anything."""

from __future__ import annotations

LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
HEX = "0123456789abcdef"
PEM = f"""-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,0123456789ABCDEF

{LETTERS}{LETTERS}
{LETTERS}==
-----END RSA PRIVATE KEY-----"""
OPENSSH = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{LETTERS}\n-----END OPENSSH PRIVATE KEY-----"
BLOCK = f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{LETTERS}\n-----END PGP PRIVATE KEY BLOCK-----"
CREDENTIALS = {
    "PEM": PEM,
    "OpenSSH": OPENSSH,
    "PGP": BLOCK,
    "PEM in JSON": OPENSSH.replace("\n", "\\n"),
    "age": f"AGE-SECRET-KEY-1{'QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L' * 2}"[:74],
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "DigitalOcean": f"dop_v1_{HEX * 4}",
    "Discord bot": f"M{LETTERS[:23]}.{LETTERS[:6]}.{LETTERS[:27]}",
    "GitHub": f"ghp_{LETTERS}",
    "GitHub, fine-grained": f"github_pat_{LETTERS[:22]}_{LETTERS}",
    "GitLab": f"glpat-{LETTERS[:20]}",
    "Google key": f"AIzaSy{LETTERS[:33]}",
    "Google access token": f"ya29.a0{LETTERS}_{LETTERS}",
    "Google client secret": f"GOCSPX-{LETTERS[:28]}",
    "Grafana": f"glsa_{LETTERS[:32]}_{HEX[:8]}",
    "Hashicorp Vault": f"hvs.{LETTERS}",
    "Hugging Face": f"hf_{LETTERS[:24]}",
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_-1",
    "Mailchimp": f"{HEX * 2}-us12",
    "Mailgun": f"key-{HEX * 2}",
    "npm": f"npm_{LETTERS}",
    "OpenAI": "sk-proj-abcdefghijklmnop0123",
    "PyPI": f"pypi-AgEIcHlwaS5vcmcC{LETTERS}{LETTERS}",
    "Replicate": f"r8_{LETTERS}",
    "SendGrid": f"SG.{LETTERS[:22]}.{LETTERS}{LETTERS[:7]}",
    "Shopify": f"shpat_{HEX * 2}",
    "Slack app": f"xapp-1-A0123456789-1234567890123-{LETTERS}",
    "Slack token": f"xoxb-123456789012-{LETTERS}",
    "Stripe": f"sk_live_{LETTERS[:24]}",
    "Stripe restricted": f"rk_test_{LETTERS[:24]}",
    "Stripe webhook": f"whsec_{LETTERS[:32]}",
    "Telegram": f"1234567890:AA{LETTERS[:33]}",
    "Twilio": f"SK{HEX * 2}",
}
"""By service."""
