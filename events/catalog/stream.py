"""Events of the agents `listening` and `watching`: what they find in the audio and video of a stream."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content, Count, EncodedBytes, Flag, Positive, Ratio, Text
from petiole.events.event import Category, Event


class SequenceGap(Content):
    """Chunks that did not arrive in time: their first and last sequence number."""

    first_sequence: Count
    last_sequence: Count


class SpeechMoment(Content):
    """When speech started or stopped, from the start of the stream, and the chunk with that moment."""

    offset_ms: Count
    sequence: Count


class CapturedSpeech(Content):
    """Speech of one utterance: mono audio at `sample_rate`, and its place in the stream.

    If it is not complete, the user is still speaking: the audio is for an interim transcription.
    """

    data: EncodedBytes
    format: Literal["pcm_s16le"] = "pcm_s16le"
    sample_rate: Positive
    utterance_id: Text
    is_complete: Flag
    first_sequence: Count
    last_sequence: Count
    start_ms: Count
    end_ms: Count


class Transcription(Content):
    """What has been recognized of an utterance that is not complete. `text` may be empty."""

    utterance_id: Text
    text: str
    transcriber: Text


class Utterance(Content):
    """A complete utterance. `text` is empty if nothing was recognized."""

    utterance_id: Text
    text: str
    transcriber: Text
    first_sequence: Count
    last_sequence: Count
    start_ms: Count
    end_ms: Count


class SceneChange(Content):
    """The frame at which the picture changed, and how much: 0 is the same picture, 1 the opposite one."""

    sequence: Count
    difference: Ratio


class AudioWait(Content):
    """A wait for more audio of a stream."""


class StreamEvent(Event):
    """Base class of the events about audio and video."""

    category: ClassVar[Category] = Category.PROCESSING


class GapDetectedEvent(StreamEvent):
    """Chunks of a stream are missing, and were waited for."""

    event_type: Literal["stream.gap.detected"] = "stream.gap.detected"
    content: SequenceGap


class SpeechStartedEvent(StreamEvent):
    """The user started to speak."""

    event_type: Literal["stream.speech.started"] = "stream.speech.started"
    content: SpeechMoment


class SpeechStoppedEvent(StreamEvent):
    """The user stopped speaking, perhaps only for a pause."""

    event_type: Literal["stream.speech.stopped"] = "stream.speech.stopped"
    content: SpeechMoment


class SpeechCapturedEvent(StreamEvent):
    """Speech was captured and can be transcribed."""

    event_type: Literal["stream.speech.captured"] = "stream.speech.captured"
    content: CapturedSpeech


class TranscriptionUpdatedEvent(StreamEvent):
    """An interim transcription of an utterance is available."""

    event_type: Literal["stream.transcription.updated"] = "stream.transcription.updated"
    content: Transcription


class UtteranceCompletedEvent(StreamEvent):
    """An utterance was completed and transcribed."""

    event_type: Literal["stream.utterance.completed"] = "stream.utterance.completed"
    content: Utterance


class SceneChangedEvent(StreamEvent):
    """The picture of a video changed."""

    event_type: Literal["stream.scene.changed"] = "stream.scene.changed"
    content: SceneChange


class AudioCheckDueEvent(StreamEvent):
    """A stream whose audio is awaited is due for a check."""

    event_type: Literal["stream.check.due"] = "stream.check.due"
    content: AudioWait
