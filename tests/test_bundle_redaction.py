"""What a bundle leaves out of texts and values, and what it leaves in."""

from __future__ import annotations

import base64
import html
import json
import time
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from stagewright.adapters.bundling.patterns import names_secret
from stagewright.adapters.bundling.redaction import Redactor

from .bundling import private

PASSWORD = 's3cret pw"\\ä'
BASIC = base64.b64encode(f"somebody:{PASSWORD}".encode()).decode()
TWICE = json.dumps(json.dumps(PASSWORD)[1:-1])[1:-1]


def redacted(text: str, **words: Any) -> str:
    """A text as it stands in a bundle."""
    return Redactor(private(**words)).text(text)


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        f"somebody:{PASSWORD}",
        BASIC,
        BASIC.rstrip("="),
        base64.urlsafe_b64encode(PASSWORD.encode()).decode(),
        json.dumps(PASSWORD)[1:-1],
        json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
        TWICE,
        html.escape(PASSWORD),
        quote(PASSWORD, safe=""),
        quote(PASSWORD, safe="").lower(),
        quote_plus(PASSWORD),
        repr(PASSWORD)[1:-1],
        repr(PASSWORD.encode())[2:-1],
    ],
)
def test_the_password_is_left_out_in_every_form(form: str) -> None:
    """As it is, in JSON once and twice over, HTML, addresses, Python's words and base64."""
    found = redacted(f"before {form} after", auth=f"somebody:{PASSWORD}")
    assert found in ("before *** after", "before ***= after", "before ***== after")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("see http://me:pw@gpu:7860/x", "see http://gpu:7860/x"),
        ("see https://me:p@ss@gpu/", "see https://gpu/"),
        ("see http://me:p/ss@gpu/", "see http://gpu/"),
        (r"http:\/\/me:pw@gpu\/", r"http:\/\/gpu\/"),
        ("http%3A%2F%2Fme%3Apw%40gpu", "http%3A%2F%2Fgpu"),
        ("Authorization: Basic bWU6cHc=\nHost: gpu", "Authorization: ***\nHost: gpu"),
        ("{'Authorization': 'Digest u=\"x\"', 'x': 1}", "{'Authorization': '***', 'x': 1}"),
        (r"{\"proxy-authorization\": \"x y\", \"a\": 1}",
         r"{\"proxy-authorization\": \"***\", \"a\": 1}"),
        ("(b'cookie', b'a=b; c=d'), (b'host', b'gpu')", "(b'cookie', b'***'), (b'host', b'gpu')"),
        ("Set-Cookie: access=abc; Path=/", "Set-Cookie: ***"),
        ("GET /x?api_key=abc&steps=3", "GET /x?api_key=***&steps=3"),
        ("/login?password=a%20b;next=/", "/login?password=***;next=/"),
        ('{"hf_token": "hf_abc", "steps": 3}', '{"hf_token": "***", "steps": 3}'),
        ("password: hunter2", "password: ***"),
        ("Basic bWU6cHc=", "Basic ***"),
        ("Bearer abcdef0123456789", "Bearer ***"),
    ],
)  # fmt: skip
def test_what_looks_like_credentials_is_left_out(text: str, left: str) -> None:
    """Whoever's they are: headers, addresses, keys whose name says so; the rest of it stays."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "a (token:1.2) on a (cookie:1.1) and a (password:0.9)",
        "a secret: the garden of a standard bearer, basic photograph",
        "Steps: 20, Token merging ratio: 0.5, Model: sd_xl_base_1.0",
        "http://127.0.0.1:7860/sdapi/v1/txt2img",
        "http://gpu:7860/pictures/a@2x.png",
        "images/03-adetailer/00000-42.png",
        "the root of it all is at home; /home and /rootfs",
        "max_tokens=77",
    ],
)
def test_words_of_prompts_and_servers_stay(text: str) -> None:
    """A prompt's weights, infotexts, addresses without a user."""
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/bob/x.png", "~/x.png"),
        ('File "/home/bob/x.py", line 3', 'File "~/x.py", line 3'),
        ("PATH=/usr/bin:/home/bob/bin", "PATH=/usr/bin:~/bin"),
        ("/var/home/bob/x", "~/x"),
        ("/Users/Bob/Pictures", "~/Pictures"),
        ("/root/x and /root", "~/x and ~"),
        (r"C:\Users\Bob Dole\x.png", r"~\x.png"),
        (r"c:\\users\\bob\\x.png", r"~\\x.png"),
        ("C:/Users/bob/x.png", "~/x.png"),
        ("/mnt/c/Users/bob/x", "~/x"),
        ("/c/Users/bob/x", "~/x"),
        (r"\\wsl$\Ubuntu\home\bob\x", r"\\wsl$\Ubuntu~\x"),
        ("x=%2Fhome%2Fbob%2Fx", "x=~%2Fx"),
    ],
)
def test_home_folders_become_a_tilde(text: str, left: str) -> None:
    """Wherever systems put them, in JSON and in addresses as well."""
    assert redacted(text) == left


def test_this_users_home_folder_is_found_where_no_system_would_put_it() -> None:
    """Also in an address, and in another case on Windows."""
    homes = ("/data/people/alice", "D:\\Folk\\Alice A", "/", "/home")
    for text, left in (
        ("/data/people/alice/x", "~/x"),
        ("?f=%2Fdata%2Fpeople%2Falice", "?f=~"),
        ("d:\\folk\\alice a\\x", "~\\x"),
        ("d:\\\\folk\\\\alice a\\\\x", "~\\\\x"),
        ("/data/people/bob", "/data/people/bob"),
        ("/home/bob/x", "~/x"),
    ):
        assert redacted(text, homes=homes) == left


def test_machines_get_stand_ins_that_stay_the_same() -> None:
    """With their domain and without, as whole words; a machine named as a stage keeps it."""
    words = private(host="gpu-box.example.org")
    words.hosts.note("txt2img")
    redactor = Redactor(words)
    assert redactor.text("on GPU-Box, gpu-box.example.org:80") == "on host-1, host-1:80"
    assert redactor.text("my-gpu-box runs txt2img") == "my-gpu-box runs txt2img"
    assert words.hosts.of("txt2img") == "host-2"


def test_a_users_name_is_left_out_of_paths_and_addresses_only() -> None:
    """In a text it may be any word."""
    text = "/srv/alice/x by alice, alice@gpu and malice@gpu"
    assert redacted(text, user="alice") == "/srv/user/x by alice, user@gpu and malice@gpu"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *((name, True) for name in ("password", "db_passwd", "apiKey", "X-Api-Key", "hfToken")),
        *((name, True) for name in ("Cookie", "auth", "private_key", "sessionId")),
        *((name, False) for name in ("Token merging ratio", "max_tokens", "author", "seed")),
        *((name, False) for name in ("monkey", "keys", "secretary", "prompt", "")),
    ],
)  # fmt: skip
def test_keys_say_whether_their_value_is_a_secret(name: str, is_one: bool) -> None:
    """By their words, however they are written."""
    assert names_secret(name) == is_one


def test_values_of_telling_keys_are_left_out_at_any_depth() -> None:
    """Whatever they are; what says nothing stays, and so do all other values."""
    value = {
        "webhook": {"api_key": "abc", "port": 7860, "tokens": ["a"]},
        "list": [{"password": 1234}, {"password": None}, {"auth": True}, {"secret": ""}],
        "credentials": {"user": "x", "more": ["y"]},
    }
    redactor = Redactor(private())
    assert redactor.value(value) == {
        "webhook": {"api_key": "***", "port": 7860, "tokens": ["a"]},
        "list": [{"password": "***"}, {"password": None}, {"auth": True}, {"secret": ""}],
        "credentials": "***",
    }
    assert redactor.left_out == {"credentials": 3}


def test_keys_that_become_the_same_stay_apart() -> None:
    """Nothing is lost of a table whose keys hold what is left out."""
    value = {"/home/a": 1, "/home/b": 2, "~": 3}
    assert Redactor(private()).value(value) == {"~": 1, "~-2": 2, "~-3": 3}


def test_values_too_deep_to_look_through_are_left_out() -> None:
    """Nobody's configuration is nested a hundred levels deep."""
    value: Any = "/home/bob"
    for _ in range(300):
        value = [value]
    redactor = Redactor(private())
    assert "bob" not in json.dumps(redactor.value(value))
    assert redactor.left_out.total() == 1


@pytest.mark.parametrize(
    "text",
    [
        "://a",
        "a:",
        "\\",
        "/home",
        "password=",
        "'",
        "Authorization:",
        "%3A%2F%2F",
        'cookie="',
        "x='",
    ],
)
def test_a_hostile_text_takes_no_more_than_its_length(text: str) -> None:
    """Steps by the square of 200,000 characters would take many minutes."""
    redactor = Redactor(private())
    began = time.process_time()
    redactor.text(text * (200_000 // len(text)))
    assert time.process_time() - began < 10
