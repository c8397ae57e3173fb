"""The rules for private text: every form of a credential, homes, folders; and words that stay."""

from __future__ import annotations

import time

import pytest
from stagewright.adapters.credentials.names import names_secret
from stagewright.adapters.export.bundle.private_names import PrivateNames
from stagewright.adapters.export.bundle.redaction import Redactor

from .bundling import NO_NAMES
from .credential_samples import CREDENTIALS, LETTERS, PEM


def redacted(text: str, names: PrivateNames = NO_NAMES) -> str:
    """A text as it is in a bundle."""
    return Redactor(names).text(text)


@pytest.mark.parametrize("secret", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_credential_of_a_known_form_is_replaced(secret: str) -> None:
    """And nothing beside it, also after an escaped line end."""
    assert redacted(f"with {secret} and more") == "with *** and more"
    assert redacted(f"with\\n{secret}\\n and more").startswith("with\\n***")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        # Private keys and webhooks
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
        (f"https://x.webhook.office.com/webhookb2/1-2@3-4/IncomingWebhook/{LETTERS}/5 gone",
         "https://*** gone"),
        # Users and passwords
        ("see http://me:pw@gpu:7860/x", "see http://***@gpu:7860/x"),
        ("see https://me:p@ss@gpu/", "see https://***@gpu/"),
        ("see http://me:p/ss@gpu/", "see http://***@gpu/"),
        (r"http:\/\/me:pw@gpu\/", r"http:\/\/***@gpu\/"),
        ("http%3A%2F%2Fme%3Apw%40gpu", "http%3A%2F%2F***%40gpu"),
        ("curl -u admin:hunter2 http://gpu/", "curl -u *** http://gpu/"),
        ("curl -uadmin:hunter2 http://gpu/", "curl -u*** http://gpu/"),
        ("curl --user 'admin:hun ter2' http://gpu/", "curl --user *** http://gpu/"),
        ("curl --proxy-user=me:pw http://gpu/", "curl --proxy-user=*** http://gpu/"),
        ("['curl', '-u', 'admin:hunter2']", "['curl', '-u', ***]"),
        ("get(url, auth=('admin', 'hunter2'), timeout=3)", "get(url, auth=(***), timeout=3)"),
        ('auth = ("admin", "it\'s (so)")', "auth = (***)"),
        ("auth=HTTPBasicAuth('admin', 'hunter2')", "auth=***(***)"),
        ("HTTPDigestAuth(b'admin', b'hunter2')", "HTTPDigestAuth(***)"),
        # Headers
        ("Authorization: Basic bWU6cHc=\nHost: gpu", "Authorization: ***\nHost: gpu"),
        ("Authorization: Bearer\n abc1234567890123456", "Authorization: ***\n ***"),
        ('Authorization: Digest username="bob", response="6629fa"', "Authorization: ***"),
        ("{'Authorization': 'Digest u=\"x\"', 'x': 1}", "{'Authorization': '***', 'x': 1}"),
        (r"{\"proxy-authorization\": \"x y\", \"a\": 1}",
         r"{\"proxy-authorization\": \"***\", \"a\": 1}"),
        ("(b'cookie', b'a=b; c=d'), (b'host', b'gpu')", "(b'cookie', b'***'), (b'host', b'gpu')"),
        ("Set-Cookie: access=abc; Path=/", "Set-Cookie: ***"),
        ('Cookie: theme="dark"; session=8f3ab6c2d1e0\nHost: gpu', "Cookie: ***\nHost: gpu"),
        ('["Cookie: sid=abcdefghij", "Host: gpu"]', '["Cookie: ***", "Host: gpu"]'),
        ("Basic bWU6cHc=", "Basic ***"),
        ("Bearer abcdef0123456789", "Bearer ***"),
        ('[["X-Api-Key", "abc"], ["a", "b"]]', '[["X-Api-Key", "***"], ["a", "b"]]'),
        # Names and values
        ("api_key: 12345678", "api_key: ***"),
        ("password: //x9!secret", "password: ***"),
        ("auth: bob:hunterpass", "auth: ***"),
        (f"token: {'abcdefgh' * 4}", "token: ***"),
        ("GET /x?api_key=abc&steps=3", "GET /x?api_key=***&steps=3"),
        ("/login?password=a%20b;next=/", "/login?password=***;next=/"),
        ("/x?X-Amz-Signature=abc&sig=def&key=ghi&n=1",
         "/x?X-Amz-Signature=***&sig=***&key=***&n=1"),
        ('{"hf_token": "hf_abc", "steps": 3}', '{"hf_token": "***", "steps": 3}'),
        ('{"password": "hun\\"ter2", "x": 1}', '{"password": "***", "x": 1}'),
        (r'{\"password\": \"a\\\"b\", \"x\": 1}', r'{\"password\": \"***\", \"x\": 1}'),
        (r"{'password': 'it\'s so', 'x': 1}", "{'password': '***', 'x': 1}"),
        ('{"password": "line1\nline2"}', '{"password": "***"}'),
        (f'{{"api_key": "{"A" * 9000}", "x": 1}}', '{"api_key": "***", "x": 1}'),
        (f"api_key={'A' * 9000} x", "api_key=*** x"),
        ("?secret=love&n=1", "?secret=***&n=1"),
        ("secret=hunter2, token=abcdef", "secret=***, token=***"),
        ("signature=0a1b2c3d", "signature=***"),
        ("ngrok authtoken 2abcDEF_ghi123", "ngrok authtoken ***"),
        # Options of command lines
        ("x.py --password=hunter2 --listen", "x.py --password=*** --listen"),
        ("--api-auth=admin:a,b:c --listen", "--api-auth=*** --listen"),
        ("x.py --api-auth admin:hunter2 --listen", "x.py --api-auth *** --listen"),
        ("'--gradio-auth', 'admin:hunter2', 1", "'--gradio-auth', '***', 1"),
        # Mail addresses
        ("by Jo.Doe+art@acme-gmbh.example.com.", "by ***."),
        ("mailto:müller@kunde.de?subject=x", "mailto:***?subject=x"),
        ("user%40acme.com", "***"),
        # Home folders
        ('File "/home/bob/x.py", line 3', 'File "~/x.py", line 3'),
        ("PATH=/usr/bin:/home/bob/bin", "PATH=/usr/bin:~/bin"),
        ("/var/home/bob/x and /home/bob dole/x", "~/x and ~/x"),
        ("in '/home/bob dole'", "in '~'"),
        ("/home/bob is not there", "~ is not there"),
        ("/Users/Bob/Pictures", "~/Pictures"),
        ("/root/x and /root", "~/x and ~"),
        ("/media/bob/usb/x.png and /run/media/bob/usb", "~/usb/x.png and ~/usb"),
        ("cd ~bob/x; ls ~bob", "cd ~/x; ls ~"),
        (r"C:\Users\Bob Dole\x.png", r"~\x.png"),
        (r"c:\\users\\bob\\x.png", r"~\\x.png"),
        (r"no C:\Users\Bob Dole: gone", "no ~: gone"),
        ("C:/Users/bob/x.png", "~/x.png"),
        ("/mnt/c/Users/bob/x and /c/Users/bob/x", "~/x and ~/x"),
        (r"\\wsl$\Ubuntu\home\bob\x", r"\\wsl$\Ubuntu~\x"),
        ("x=%2Fhome%2Fbob%2Fx and %252Fhome%252Fbob", "x=~%2Fx and ~"),
        # Other folders may name a client; each gets a stand-in, and the name of a file stays
        ("input_image = /mnt/nas/clients/Acme GmbH/the ref.png: cannot be read",
         "input_image = folder-1/the ref.png: cannot be read"),
        ("/mnt/nas/clients/Acme GmbH", "folder-1"),
        ("in '/Volumes/Jobs/Acme GmbH/2026/'", "in 'folder-1'"),
        ("/data/a/1.png, file:///data/b/2.png, /data/a/3.png",
         "folder-1/1.png, file://folder-2/2.png, folder-1/3.png"),
        ("?f=%2Fdata%2FAcme%2Fa.png&n=1", "?f=folder-1%2Fa.png&n=1"),
        (r"D:\Kunden\Acme GmbH\ref.png and D:\\Kunden\\Acme GmbH\\b.png",
         r"folder-1\ref.png and folder-1\\b.png"),
        ("D:/Kunden/Acme/2026", "folder-1"),
        (r"\\nas\clients\Acme GmbH\ref.png", r"folder-1\ref.png"),
    ],
)  # fmt: skip
def test_private_text_is_replaced(text: str, left: str) -> None:
    """The text around it stays."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "a (token:1.2) on a (cookie:1.1) and a (password:0.9), (-ugly:1.3), ~5 min",
        "a secret: the garden of a standard bearer, basic photograph",
        "sampler pass=2, secrets=none, signature=bottom left",
        "secret = none, pass = 1.5, signature = off",
        "text, watermark, signature: none, a mountain pass: snow",
        "Steps: 20, Token merging ratio: 0.5, Model: sd_xl_base_1.0",
        "max_tokens=77, pad_token_id=49407, max_token: 75",
        "--gradio-auth-path /srv/x",
        "--steps 20 --sampler 'Euler a' and a hand-made ring",
        "['token', 'cookie', 'password'] and key=value",
        "author = ('Jane', 'Joe'), an auth (of sorts)",
        "an eye -u of the needle, docker run -u 1000:1000 x",
        "the root of it all is at home; /home and /rootfs",
        "trending on artstation @ 8k, photo by @jane.doe, pictures/a@2x.png, model@v1.safetensors",
        "pypi-simple-index and npm_config_registry, SG.1 and ya29. and hf_transformers_cache_dir",
        "http://127.0.0.1:7860/sdapi/v1/txt2img, POST /sdapi/v1/txt2img and /queue/join/a",
        "http://gpu:7860/a/b/c/d/e.png and http://gpu/media/x.png",
        'File "/usr/lib/python3/dist-packages/requests/api.py", line 59',
        r'File "C:\Program Files\Python\Lib\json\decoder.py", line 59',
        "images/03-adetailer/00000-42.png",
        "black/white, 1/2/3/4/5, w/o, <b>a</b>, either / or, /imagine a /b/ test",
        "public key: -----BEGIN CERTIFICATE----- and so on",
    ],
)
def test_words_of_prompts_and_servers_stay(text: str) -> None:
    """A bundle without them would be of no use."""
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/data/people/alice/x ?f=%2Fdata%2Fpeople%2Falice", "~/x ?f=~"),
        (r"d:\folk\alice a\x d:\\folk\\alice a\\x", r"~\x ~\\x"),
        ("/home and /", "/home and /"),
        ("/srv/alice/x by alice, alice@gpu, malice@gpu",
         "/srv/user/x by alice, user@gpu, malice@gpu"),
        ("on GPU-Box, gpu-box.example.org:80; my-gpu-box", "on host-1, host-1:80; my-gpu-box"),
        ("with open-s3same! and mysql -popen-s3same!", "with *** and mysql -p***"),
    ],
)  # fmt: skip
def test_names_of_this_machine_are_replaced(text: str, left: str) -> None:
    """Its home folders, account, host and password, where they are whole words."""
    names = PrivateNames(
        homes=("/data/people/alice", "D:\\Folk\\Alice A", "/", "/home"),
        user="alice",
        host="gpu-box.example.org",
        password="open-s3same!",
    )
    assert redacted(text, names) == left


def test_a_short_password_is_replaced_as_a_word_only() -> None:
    """As a part of other words it would make the bundle useless."""
    assert redacted("Euler e e-mail", PrivateNames(password="e")) == "Euler *** ***-mail"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *((name, True) for name in ("password", "db_passwd", "apiKey", "X-Api-Key", "hfToken")),
        *((name, True) for name in ("Cookie", "auth", "private_key", "sessionId", "AccountKey")),
        *((name, True) for name in ("api_keys", "access_tokens", "HF_TOKEN_READ", "token_value")),
        *((name, True) for name in ("pass", "user_pass", "pw", "jwt", "subscription-key")),
        *((name, True) for name in ("X-Amz-Signature", "sig", "--api-auth", "API key")),
        *((name, False) for name in ("token_ids", "passes", "first_pass", "sigma", "tokens")),
        *((name, False) for name in ("Token merging ratio", "max_tokens", "author", "seed")),
        *((name, False) for name in ("eos_token_id", "max_token", "Trigger token", "auth_path")),
        *((name, False) for name in ("monkey", "keys", "secretary", "prompt", "")),
    ],
)
def test_a_name_says_whether_its_value_is_a_secret(name: str, is_one: bool) -> None:
    """By its words, in any notation."""
    assert names_secret(name) == is_one


@pytest.mark.parametrize(
    "text",
    ["://a", "a:", "\\", "/home", "password=", "'", "Authorization:", "%3A%2F%2F", 'cookie="',
     "secret:", "password='\\", "-eyJ", "-sk-", "--auth ", "a-", "['auth', '", "/home/a b ",
     "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "a@", "a.", "a@a.", "-u a:", "-u", "auth=('",
     "/a", "/a.b", "a:\\", "\\\\a", "/a b", "%2Fa", "hooks.slack.com/services/", "pypi-", "SG.a",
     "~a", "Basic ", "/media/"],
)  # fmt: skip
def test_the_time_for_a_hostile_text_grows_with_its_length(text: str) -> None:
    """With its square, 25,000 characters would take 2.5 seconds and more."""
    began = time.process_time()
    redacted(text * (25_000 // len(text)))
    assert time.process_time() - began < 1.5
