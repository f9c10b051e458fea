"""What every synthesizer does. Those whose program is not installed are skipped; under CI=true that is a failure."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from petiole.events.errors import NotConfigured, ProviderUnavailable, UsageError
from petiole.workers.agents.speaking import PROGRAMS, cut_into_chunks
from petiole.workers.streams.pcm import check_audio
from petiole.workers.synthesis import Synthesizer, _program, create_synthesizer, list_synthesizers


@pytest.fixture(params=list_synthesizers())
def synthesizer(request: pytest.FixtureRequest) -> Synthesizer:
    program = PROGRAMS.get(request.param)
    if program and not shutil.which(program):
        missing = f"{program} is missing: apt-get install {program}, as .ci/run does"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    try:
        return create_synthesizer(request.param)
    except UsageError as error:
        if error.code != "missing_extra":
            raise
        pytest.skip(str(error))


def test_it_speaks_a_text_as_audio_whose_chunks_can_be_heard(synthesizer) -> None:
    speech = synthesizer.synthesize("Hello, I can help.")

    assert 0.5 < len(speech.pcm) / 2 / speech.sample_rate < 5
    assert any(speech.pcm)
    chunks = list(cut_into_chunks(speech))
    for chunk in chunks:
        check_audio(chunk, "output.audio.chunk")
    assert b"".join(chunk.data for chunk in chunks) == speech.pcm


@pytest.mark.parametrize("text", ["-x --help $(id) `id` ; \x00 \ud800", "word " * 10_000, "日本語 ☃"])
def test_text_of_strangers_is_spoken_or_refused_and_is_no_option_of_the_program(
    monkeypatch, synthesizer, text: str
) -> None:
    monkeypatch.setattr(_program, "TIMEOUT_S", 120)  # a busy machine is no refusal
    try:
        speech = synthesizer.synthesize(text)
    except ProviderUnavailable as error:
        assert "exit code" in str(error) or "no audio" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert len(speech.pcm) / 2 / speech.sample_rate < 1_000


def test_it_is_named_as_its_setting_is(synthesizer) -> None:
    assert synthesizer.name in list_synthesizers()


def test_a_program_that_is_not_installed_and_one_that_does_not_end_are_told(monkeypatch, tmp_path) -> None:
    with pytest.raises(NotConfigured, match="install the program"):
        _program.run_synthesizer("no-such-program", [], "Hello")
    monkeypatch.setattr(_program, "TIMEOUT_S", 0.2)
    with pytest.raises(ProviderUnavailable, match="did not speak the text within"):
        _program.run_synthesizer("sleep", ["20"], "Hello")
    with pytest.raises(ProviderUnavailable, match="exit code"):
        _program.run_synthesizer("false", [], "Hello")


@pytest.mark.parametrize("name", ["parrot", "nowhere:Parrot", "tests.support.sound:Parrot"])
def test_a_name_that_is_no_synthesizer_is_refused_with_the_names_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"PETIOLE_SYNTHESIZER.*'espeak_ng'"):
        create_synthesizer(name)


def test_what_is_no_synthesizer_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a synthesizer"):
        create_synthesizer("tests.support.sound:Numbering")


def test_a_loaded_class_of_ones_own_is_used() -> None:
    own: Any = create_synthesizer("tests.support.sound:Humming")

    assert own.name == "humming"
