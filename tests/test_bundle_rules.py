"""Credentials of known shapes, mail addresses and folders in a bundle; and prompts, which stay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters.export.bundle.redaction import Redactor

from .bundling import bundled, counts, documents, members, private, written

LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
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
    "Slack token": f"xoxb-123456789012-{LETTERS}",
    "Slack app": f"xapp-1-A0123456789-1234567890123-{LETTERS}",
    "Stripe": f"sk_live_{LETTERS[:24]}",
    "Stripe restricted": f"rk_test_{LETTERS[:24]}",
    "Stripe webhook": f"whsec_{LETTERS[:32]}",
    "SendGrid": f"SG.{LETTERS[:22]}.{LETTERS}{LETTERS[:7]}",
    "npm": f"npm_{LETTERS}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmcC{LETTERS}{LETTERS}",
    "Google access token": f"ya29.a0{LETTERS}_{LETTERS}",
    "Google client secret": f"GOCSPX-{LETTERS[:28]}",
    "Telegram": f"1234567890:AA{LETTERS[:33]}",
    "Discord bot": f"M{LETTERS[:23]}.{LETTERS[:6]}.{LETTERS[:27]}",
    "DigitalOcean": f"dop_v1_{'0123456789abcdef' * 4}",
    "age": f"AGE-SECRET-KEY-1{'QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L' * 2}"[:74],
}


def redacted(text: str, **words: Any) -> str:
    """A text as it stands in a bundle."""
    return Redactor(private(**words)).text(text)


@pytest.mark.parametrize("secret", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_credential_of_a_known_shape_is_left_out(secret: str) -> None:
    """And nothing beside it."""
    assert redacted(f"with {secret} and more") == "with *** and more"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"private_key: {PEM}\nseed: 1", "private_key: ***\nseed: 1"),
        (f"cut off: -----BEGIN EC PRIVATE KEY-----\n{LETTERS}", "cut off: ***"),
        (f"to https://hooks.slack.com/services/T0123ABCD/B0123ABCD/{LETTERS[:24]} now",
         "to https://*** now"),
        (rf"https:\/\/hooks.slack.com\/services\/T0123ABCD\/B0123ABCD\/{LETTERS[:24]}",
         r"https:\/\/***"),
        (f"https://discord.com/api/webhooks/123456789012345678/{LETTERS}-_{LETTERS}",
         "https://***"),
        (f"https://discordapp.com/api/v10/webhooks/123456789012345678/{LETTERS} gone",
         "https://*** gone"),
        ("curl -u admin:hunter2 http://gpu/", "curl -u *** http://gpu/"),
        ("curl --user 'admin:hun ter2' http://gpu/", "curl --user '***' http://gpu/"),
        ("curl --proxy-user=me:pw http://gpu/", "curl --proxy-user=*** http://gpu/"),
        ("['curl', '-u', 'admin:hunter2']", "['curl', '-u', '***']"),
        ("get(url, auth=('admin', 'hunter2'), timeout=3)", "get(url, auth=(***), timeout=3)"),
        ('auth = ("admin", "it\'s (so)")', "auth = (***)"),
        ("auth=HTTPBasicAuth('admin', 'hunter2')", "auth=***(***)"),
        ("HTTPDigestAuth(b'admin', b'hunter2')", "HTTPDigestAuth(***)"),
    ],
)  # fmt: skip
def test_keys_webhooks_and_logins_are_left_out(text: str, left: str) -> None:
    """What stands around them stays."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("by Jo.Doe+art@acme-gmbh.example.com.", "by ***."),
        ("mailto:müller@kunde.de?subject=x", "mailto:***?subject=x"),
        ("user%40acme.com", "***"),
    ],
)
def test_mail_addresses_are_left_out(text: str, left: str) -> None:
    """Of anybody."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/mnt/nas/clients/Acme GmbH/ref.png", "***/ref.png"),
        ("input_image = /mnt/nas/clients/Acme GmbH/the ref.png: cannot be read",
         "input_image = ***/the ref.png: cannot be read"),
        ("/mnt/nas/clients/Acme GmbH", "***"),
        ("in '/Volumes/Jobs/Acme GmbH/2026/'", "in '***'"),
        ("file:///data/Acme/a.png and /data/Acme/b.png.", "file://***/a.png and ***/b.png."),
        ("?f=%2Fdata%2FAcme%2Fa.png&n=1", "?f=***%2Fa.png&n=1"),
        (r"D:\Kunden\Acme GmbH\ref.png", r"***\ref.png"),
        (r"D:\\Kunden\\Acme GmbH\\ref.png", r"***\\ref.png"),
        ("D:/Kunden/Acme/2026", "***"),
        (r"\\nas\clients\Acme GmbH\ref.png", r"***\ref.png"),
    ],
)  # fmt: skip
def test_folders_outside_home_are_left_out(text: str, left: str) -> None:
    """They may name a client; the name of the file stays."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "sampler pass=2, secrets=none, signature=bottom left",
        "secret = none, pass = 1.5, signature = off",
        "trending on artstation @ 8k, photo by @jane.doe, pictures/a@2x.png, model@v1.safetensors",
        "pypi-simple-index and npm_config_registry, SG.1 and ya29.",
        "an eye -u of the needle, docker run -u 1000:1000 x",
        "author = ('Jane', 'Joe'), an auth (of sorts)",
        "POST /sdapi/v1/txt2img, GET /controlnet/model_list and /queue/join/a",
        'File "/usr/lib/python3/dist-packages/requests/api.py", line 59',
        r'File "C:\Program Files\Python\Lib\json\decoder.py", line 59',
        "http://gpu:7860/a/b/c/d/e.png and images/03-adetailer/00000-42.png",
        "black/white, 1/2/3/4/5, w/o, <b>a</b>, either / or, /imagine a /b/ test",
        "public key: -----BEGIN CERTIFICATE----- and so on",
    ],
)
def test_words_of_prompts_and_of_servers_stay(text: str) -> None:
    """A bundle without them would be of no use."""
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("?secret=love&n=1", "?secret=***&n=1"),
        ("SECRET=love", "SECRET=***"),
        ("secret=hunter2", "secret=***"),
        ("signature=0a1b2c3d", "signature=***"),
        ("pass=correcthorsebattery", "pass=***"),
        ("token=abcdef", "token=***"),
    ],
)
def test_values_that_are_no_words_of_a_prompt_are_left_out(text: str, left: str) -> None:
    """Also a word where it is a parameter of an address, or a variable."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    ["-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "a@", "a.", "a@a.", "-u a:", "-u ", "auth=('",
     "/a", "/a.b", "a:\\", "\\\\a", "/a b", "%2Fa", "hooks.slack.com/services/", "pypi-", "SG.a"],
)  # fmt: skip
def test_a_hostile_text_takes_no_more_than_its_length(text: str) -> None:
    """Steps by the square of 200,000 characters would take many minutes."""
    began = time.process_time()
    redacted(text * (200_000 // len(text)))
    assert time.process_time() - began < 10


def test_the_manifest_counts_what_was_left_out_by_kind(tmp_path: Path) -> None:
    """Credentials, mail addresses and folders, each by its name."""
    told = documents()
    told[0]["config"] = {
        "prompt": f"for me@acme.example, with {CREDENTIALS['npm']}",
        "input_image": "/mnt/nas/clients/Acme GmbH/ref.png",
    }
    made = bundled(written(tmp_path / "runs" / "run", told))
    found = counts(made)
    assert (found["credentials"], found["mail addresses"], found["other folders"]) == (1, 1, 1)
    assert made.manifest.log is not None
    assert made.manifest.log.head is None
    data = members(made.file)["events.jsonl"]
    assert all(word not in data for word in (b"Acme", b"acme", b"npm_"))
    assert b"***/ref.png" in data
