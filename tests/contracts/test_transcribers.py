"""What every transcriber does. Those whose packages are not installed are skipped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from petiole.events.errors import UsageError
from petiole.workers.process.model_process import ModelProcess
from petiole.workers.transcription import Transcriber, create_transcriber, list_transcribers
from tests.support.errors import has_code
from tests.support.sound import RECORDED_WORDS, recorded, silence


@pytest.fixture(scope="module", params=list_transcribers())
def transcriber(request: pytest.FixtureRequest) -> Iterator[Transcriber]:
    try:
        transcriber = create_transcriber(request.param)
    except UsageError as error:
        if error.code != "missing_extra":
            raise
        pytest.skip(str(error))
    yield transcriber
    process: ModelProcess | None = getattr(transcriber, "process", None)
    if process is not None:
        process.close()


def words(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ").strip()


def test_it_understands_no_words_in_silence_and_none_in_nothing(transcriber) -> None:
    assert len(words(transcriber.transcribe(silence(1_000))).split()) <= 1
    assert transcriber.transcribe(b"") == ""


def test_it_understands_a_recording_in_several_threads_at_the_same_time(transcriber) -> None:
    pcm = b"".join(chunk.data for chunk in recorded(silence_ms=300))

    with ThreadPoolExecutor(2) as threads:
        texts = set(map(words, threads.map(transcriber.transcribe, [pcm] * 2)))

    assert texts == {RECORDED_WORDS}


def test_it_is_named_as_its_setting_is(transcriber) -> None:
    assert transcriber.name in list_transcribers()


@pytest.mark.parametrize("name", ["parrot", "nowhere:Parrot", "tests.support.sound:Parrot"])
def test_a_name_that_is_no_transcriber_is_refused_with_the_names_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"PETIOLE_TRANSCRIBER.*'pocketsphinx'"):
        create_transcriber(name)


def test_a_missing_package_is_named_by_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"petiole\[voice\]"):
        create_transcriber("pocketsphinx")


def test_a_thread_that_transcribes_leaves_the_others_their_time(transcriber) -> None:
    pcm = b"".join(chunk.data for chunk in recorded()) * 2
    transcriber.transcribe(pcm[:3_200])
    with ThreadPoolExecutor(1) as threads:
        running, steps = threads.submit(transcriber.transcribe, pcm), 0
        while not running.done():
            time.sleep(0.005)
            steps += 1

    assert running.result()
    assert steps > 10
