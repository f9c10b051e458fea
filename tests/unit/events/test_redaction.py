from __future__ import annotations

import time

import pytest

from petiole.events.errors import UsageError
from petiole.events.redaction import DEFAULT_HOOK, FAILED, MAX_SCANNED_LENGTH, Redactor, redact_secrets

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl"  # gitleaks:allow
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("my password is hunter2", "my password is [redacted]"),
        ('the passphrase: "correct horse" opens it', 'the passphrase: "[redacted]" opens it'),
        ("PASSWORD=hunter2, please", "PASSWORD=[redacted], please"),
        ("DB_PASSWORD=hunter2", "DB_PASSWORD=[redacted]"),
        ("POSTGRES_PASSWORD: hunter3", "POSTGRES_PASSWORD: [redacted]"),
        ("MYSQL_PWD=hunter4", "MYSQL_PWD=[redacted]"),
        ("my_password=hunter5", "my_password=[redacted]"),
        ("db2-password=hunter6", "db2-password=[redacted]"),
        ("PGPASSWORD=hunter7", "PGPASSWORD=[redacted]"),
        ("dbPassword: hunter8", "dbPassword: [redacted]"),
        ("password: 'open sesame now'", "password: '[redacted]'"),
        ("password is `open sesame`", "password is `[redacted]`"),
        ("clientSecret=abc123def", "clientSecret=[redacted]"),
        ("it's password is don't, isn't it", "it's password is [redacted]'t, isn't it"),
        ("password='open\nsesame", "password='[redacted]\nsesame"),
        ("use api key: abc123def", "use api key: [redacted]"),
        ("MY_API_KEY=abc123def", "MY_API_KEY=[redacted]"),
        ("the token is a1b2c3d4e5", "the token is [redacted]"),
        ("my PIN is 1234", "my PIN is [redacted]"),
        ("Authorization: Bearer abcdefghijklmnopq", "Authorization: Bearer [redacted]"),
        (f"see {JWT}", "see [redacted]"),
        ("sk-abcdefghijklmnopqrst", "[redacted]"),
        ("key AKIAABCDEFGHIJKLMNOP here", "key [redacted] here"),
        (f"it is {PEM}!", "it is [redacted]!"),
        ("redis://app:hunter2@host:6379/0", "redis://app:[redacted]@host:6379/0"),
        ("pay with 4111 1111 1111 1111 today", "pay with [redacted] today"),
        ("or 3782-822463-10005", "or [redacted]"),
    ],
)
def test_a_secret_in_a_text_is_replaced_and_the_rest_stays(text, kept):
    assert redact_secrets(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello, what is 12 * 7?",
        "the token is expired",
        "the secret is to practise",
        "I lost the key to my keyboard",
        "call 0171 1234567",
        "4111 1111 1111 1112 has a wrong check digit",
        "41111111-1111-1111-1111-111111111111",
        "2026-11-28T06:44:29.123456Z",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text):
    assert redact_secrets(text) == text


def test_a_field_that_is_named_after_a_secret_keeps_no_text():
    document = {
        "user": {"name": "Ada", "password": "x y", "OPENAI_API_KEY": "z"},
        "token": "Hello",
        "access_token": "abc",
        "notes": ["my password is hunter2", 5, None, True],
    }

    kept = Redactor(DEFAULT_HOOK).value(document)

    assert kept == {
        "user": {"name": "Ada", "password": "[redacted]", "OPENAI_API_KEY": "[redacted]"},
        "token": "Hello",
        "access_token": "[redacted]",
        "notes": ["my password is [redacted]", 5, None, True],
    }


def test_what_is_redacted_stays_the_same_when_it_is_redacted_again():
    once = redact_secrets("my password is hunter2; API_KEY=abc123def; 4111111111111111")

    assert redact_secrets(once) == once


def test_a_text_of_encoded_bytes_is_not_searched():
    encoded = "A" * MAX_SCANNED_LENGTH + " my password is hunter2"

    assert redact_secrets(encoded) == encoded


@pytest.mark.parametrize(
    "part",
    [
        *("a.", "a-://", "://a:", "eyJaaaaaaaa-", "eyJaaaaaaaa.eyJ", "-----BEGIN ", "password ", "token: ", "4 "),
        *("is ", "password='", "password=`a ", "a_password", "password=", "secret='", "_token_token", "pwd_", "a_"),
    ],
)
def test_no_text_of_a_stranger_takes_long(part):
    text = (f"password://{part}" + part * MAX_SCANNED_LENGTH)[:MAX_SCANNED_LENGTH]

    began = time.process_time()
    redact_secrets(text)

    assert time.process_time() - began < 3


def test_a_hook_that_fails_lets_nothing_through(tmp_path, monkeypatch):
    hooks = "def fail(text, name):\n    return 1 / 0\ndef wrong(text, name):\n    return None\n"
    (tmp_path / "failing_hooks.py").write_text(hooks)
    monkeypatch.syspath_prepend(tmp_path)

    assert Redactor("failing_hooks:fail").text("my password is hunter2") == FAILED
    assert Redactor("failing_hooks:wrong").text("my password is hunter2") == FAILED


@pytest.mark.parametrize("setting", ["nowhere:hook", "petiole.events.redaction:missing", "petiole.events", "os:sep"])
def test_a_setting_that_names_no_function_is_refused_with_a_remedy(setting):
    with pytest.raises(UsageError, match=r"PETIOLE_REDACT=.* names no function .*'package\.module:function'"):
        Redactor(setting)


def test_none_keeps_every_text():
    redactor = Redactor("none")

    assert not redactor.may_change({"password": "hunter2"})
    assert redactor.value({"password": "hunter2"}) == {"password": "hunter2"}
