from __future__ import annotations

import pytest
from pydantic import Field, SecretStr

from petiole.events.errors import UsageError
from petiole.tasks.settings import EnvironmentSettings, Settings, unknown_variables


def test_a_duration_is_seconds(monkeypatch):
    monkeypatch.setenv("PETIOLE_QUEUE_FULL_TIMEOUT_S", "0.5")

    assert Settings().queue_full_timeout_s == 0.5


@pytest.mark.parametrize("value", ["-1", "0", "soon", "PT5M", "nan", "inf"])
def test_what_is_no_duration_is_refused(monkeypatch, value):
    monkeypatch.setenv("PETIOLE_QUEUE_FULL_TIMEOUT_S", value)

    with pytest.raises(UsageError, match="PETIOLE_QUEUE_FULL_TIMEOUT_S"):
        Settings()


@pytest.mark.parametrize("value", ["-1", "often", "nan", "0.01", "100000"])
def test_what_is_no_interval_is_refused(monkeypatch, value):
    monkeypatch.setenv("PETIOLE_TICK_INTERVAL_S", value)

    with pytest.raises(UsageError, match="PETIOLE_TICK_INTERVAL_S"):
        Settings()


def test_a_bad_value_is_one_sentence_with_variable_value_reason_and_remedy(monkeypatch):
    monkeypatch.setenv("PETIOLE_MAX_HOPS", "0")

    with pytest.raises(UsageError) as refused:
        Settings()

    assert str(refused.value) == (
        "PETIOLE_MAX_HOPS is '0': input should be greater than 0; change it, or unset it for the default, 16"
    )


def test_a_bad_value_given_in_code_is_refused_alike():
    with pytest.raises(UsageError, match="PETIOLE_MAX_HOPS is '0'"):
        Settings(max_hops=0)


class WithSecret(EnvironmentSettings):
    key: SecretStr | None = Field(default=None, repr=False, min_length=10)


def test_a_bad_secret_is_not_shown(monkeypatch):
    monkeypatch.setenv("PETIOLE_KEY", "hunter2")

    with pytest.raises(UsageError, match="PETIOLE_KEY is not usable") as refused:
        WithSecret()

    assert "hunter2" not in f"{refused.value} {refused.value.__cause__}"


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    monkeypatch.setenv("PETIOLE_MAX_HOPS", "")

    assert Settings().max_hops == 16


def test_an_unknown_variable_is_reported_with_the_nearest_name():
    environment = {"PETIOLE_HEARTBEAT_TIMEOUT": "5", "PETIOLE_MAX_HOPS": "5", "HOME": "/"}

    (warning,) = unknown_variables(environment, [Settings])

    assert warning == (
        "Petiole has no setting PETIOLE_HEARTBEAT_TIMEOUT, so it has no effect; "
        "did you mean PETIOLE_HEARTBEAT_TIMEOUT_S?"
    )


def test_an_environment_is_read_once_and_again_when_it_has_changed(monkeypatch):
    first = Settings()
    assert Settings() is first

    monkeypatch.setenv("PETIOLE_KEY_PREFIX", "shop")

    assert (Settings().key_prefix, first.key_prefix) == ("shop", "petiole")
    assert Settings(key_prefix="mill").key_prefix == "mill"
