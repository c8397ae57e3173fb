"""What a bundle leaves out of texts and values, and what it leaves in."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters.credentials.secret_names import names_secret
from stagewright.adapters.export.bundle.encodings import spans
from stagewright.adapters.export.bundle.redaction import Redactor

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
        ("Cookie: sid=abcdefghij", "Cookie: ***"),
        ('Cookie: theme="dark"; session=8f3ab6c2d1e0\nHost: gpu', "Cookie: ***\nHost: gpu"),
        ('Authorization: Digest username="bob", response="6629fa"', "Authorization: ***"),
        ('["Cookie: sid=abcdefghij", "Host: gpu"]', '["Cookie: ***", "Host: gpu"]'),
        ("api_key: 12345678", "api_key: ***"),
        ("password: //x9!secret", "password: ***"),
        ("auth: bob:hunterpass", "auth: ***"),
        (f"token: {'abcdefgh' * 4}", "token: ***"),
        ("GET /x?api_key=abc&steps=3", "GET /x?api_key=***&steps=3"),
        ("/login?password=a%20b;next=/", "/login?password=***;next=/"),
        ('{"hf_token": "hf_abc", "steps": 3}', '{"hf_token": "***", "steps": 3}'),
        ("password: hunter2", "password: ***"),
        ("Basic bWU6cHc=", "Basic ***"),
        ("Bearer abcdef0123456789", "Bearer ***"),
        ("x.py --password=hunter2 --listen", "x.py --password=*** --listen"),
        ("--api-auth=admin:a,b:c --listen", "--api-auth=*** --listen"),
        ("x.py --api-auth admin:hunter2 --listen", "x.py --api-auth *** --listen"),
        ("'--gradio-auth', 'admin:hunter2', 1", "'--gradio-auth', '***', 1"),
        (r'{"password": "hun\"ter2", "x": 1}', '{"password": "***", "x": 1}'),
        (r'{"password": "hunter2\\", "x": 1}', '{"password": "***", "x": 1}'),
        (r'{\"password\": \"a\\\"b\", \"x\": 1}', r'{\"password\": \"***\", \"x\": 1}'),
        (r"{'password': 'it\'s so', 'x': 1}", "{'password': '***', 'x': 1}"),
        ('{"password": "line1\nline2"}', '{"password": "***"}'),
        (f'{{"api_key": "{"A" * 9000}", "x": 1}}', '{"api_key": "***", "x": 1}'),
        (f"api_key={'A' * 9000} x", "api_key=*** x"),
        ("url=http://gpu/?api_key=abc", "url=http://gpu/?api_key=***"),
        ("Authorization: Bearer\n abc1234567890123456", "Authorization: ***\n ***"),
        ('{"name": "Cookie", "value": "a=b"}', '{"name": "Cookie", "value": "***"}'),
        ('[["X-Api-Key", "abc"], ["a", "b"]]', '[["X-Api-Key", "***"], ["a", "b"]]'),
        ("/x?X-Amz-Signature=abc&sig=def&key=ghi&n=1",
         "/x?X-Amz-Signature=***&sig=***&key=***&n=1"),
        ("with hf_AbCdEfGhIjKlMnOpQrStUvWx and", "with *** and"),
        ("with ghp_abcdefghijklmnopqrstuvwxyz0123456789", "with ***"),
        ("with sk-proj-abcdefghijklmnop0123", "with ***"),
        ("jwt is eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_-1", "jwt is ***"),
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
        "pad_token_id=49407, max_token: 75",
        "--gradio-auth-path /srv/x",
        "text, watermark, signature: none, a mountain pass: snow",
        "--steps 20 --sampler 'Euler a' and a hand-made ring",
        "['token', 'cookie', 'password'] and key=value",
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
        ("x=%252Fhome%252Fbob%252Fx", "x=~%252Fx"),
        ("x=%2Froot%2Fx", "x=~%2Fx"),
        ("/home/bob dole/x", "~/x"),
        ("in '/home/bob dole'", "in '~'"),
        ("/home/bob is not there", "~ is not there"),
        (r"C:\Users\Bob Dole", "~"),
        (r"no C:\Users\Bob Dole: gone", "no ~: gone"),
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
        *((name, True) for name in ("api_keys", "access_tokens", "HF_TOKEN_READ", "token_value")),
        *((name, True) for name in ("pass", "user_pass", "pw", "jwt", "subscription-key")),
        *((name, True) for name in ("X-Amz-Signature", "sig")),
        *((name, False) for name in ("token_ids", "passes", "first_pass", "sigma", "tokens")),
        *((name, False) for name in ("Token merging ratio", "max_tokens", "author", "seed")),
        *((name, False) for name in ("eos_token_id", "max_token", "Trigger token", "auth_path")),
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
        "pass": 2,
    }
    redactor = Redactor(private())
    assert redactor.value(value) == {
        "webhook": {"api_key": "***", "port": 7860, "tokens": ["a"]},
        "list": [{"password": "***"}, {"password": None}, {"auth": True}, {"secret": ""}],
        "credentials": "***",
        "pass": 2,
    }
    assert redactor.left_out == {"credentials": 3}


def test_values_behind_names_in_lists_and_tables_are_left_out() -> None:
    """Headers as pairs or as tables, arguments of a command line; other lists stay."""
    value = {
        "headers": [["X-Api-Key", "abc"], ["Accept", "*/*"]],
        "more": [{"name": "Cookie", "value": "a=b"}, {"name": "seed", "value": 7}],
        "arguments": ["--api-auth", "admin:hunter2", "--password", "--listen"],
        "words": ["token", "cookie", "password"],
    }
    assert Redactor(private()).value(value) == {
        "headers": [["X-Api-Key", "***"], ["Accept", "*/*"]],
        "more": [{"name": "Cookie", "value": "***"}, {"name": "seed", "value": 7}],
        "arguments": ["--api-auth", "***", "--password", "--listen"],
        "words": ["token", "cookie", "password"],
    }


def test_names_of_machines_and_users_are_left_out_of_keys() -> None:
    """Not of the keys that events and plans are made of, whatever a machine is called."""
    words = private(host="gpu-box", user="alice")
    words.hosts.note("steps")
    value = {"gpu-box": 1, "on gpu-box": 2, "/srv/alice/x": 3, "steps": 4}
    told = {"host-1": 1, "on host-1": 2, "/srv/user/x": 3, "steps": 4}
    assert Redactor(words).value(value) == told


ODD = "it's \"T0p&s\u00e9cret\U0001f511 %41/x"
ODD_JSON = json.dumps(ODD)[1:-1]


@pytest.mark.parametrize(
    "form",
    [
        ODD.replace("'", "&#39;").replace('"', "&#34;"),
        ODD_JSON.replace("/", r"\/"),
        re.sub(r"(?<=\\u)\w{4}", lambda found: found[0].upper(), ODD_JSON),
        ODD_JSON.replace("'", r"\u0027").replace("&", r"\u0026"),
        quote(quote(ODD, safe=""), safe=""),
        quote(ODD, safe="/'"),
        html.escape(ODD_JSON),
        json.dumps(html.escape(ODD))[1:-1],
        repr(ODD.encode())[2:-1],
        ODD.encode().decode("latin-1"),
    ],
)  # fmt: skip
def test_the_password_is_found_however_it_is_written(form: str) -> None:
    """Escaped, quoted, one within the other, and as UTF-8 that was taken for Latin-1."""
    assert redacted(f"before {form} after", auth=f"somebody:{ODD}") == "before *** after"


@given(
    password=st.text(min_size=1, max_size=12),
    ways=st.lists(st.sampled_from(range(4)), max_size=2),
    around=st.tuples(st.text(max_size=6), st.text(max_size=6)),
)
def test_what_is_written_within_something_is_found_in_its_place(
    password: str, ways: list[int], around: tuple[str, str]
) -> None:
    """Exactly the characters that stand for it, and nothing beside them."""
    writings = (lambda x: json.dumps(x)[1:-1], lambda x: quote(x, safe=""), html.escape, str)
    password = password.encode("utf-8", "replace").decode().replace("\x00", "")
    before, after = around
    text = password
    for way in ways:
        text = writings[way](text)
    words = re.compile("|".join(map(re.escape, {password, password.encode().decode("latin-1")})))
    found = spans(words, f"{before}\x00{text}\x00{after}")
    begin = len(before) + 1
    if password:
        assert any(one <= begin and end >= begin + len(text) for one, end in found)


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
        "secret:",
        "cookie:",
        "password='\\",
        "-eyJ",
        "-sk-",
        "--auth ",
        "a-",
        "['auth', '",
        "/home/a b ",
        "&amp;%41\\u0041",
    ],
)
def test_a_hostile_text_takes_no_more_than_its_length(text: str) -> None:
    """Steps by the square of 200,000 characters would take many minutes."""
    redactor = Redactor(private("somebody:hunter2"))
    began = time.process_time()
    redactor.text(text * (200_000 // len(text)))
    assert time.process_time() - began < 10
