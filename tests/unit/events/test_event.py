from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID, uuid5

import pytest
from pydantic import ValidationError

from petiole.events import (
    AssembledContext,
    ContextAssembledEvent,
    CustomEvent,
    ErrorEvent,
    Event,
    EventContext,
    MessageEvent,
    TextContent,
    TextMessageEvent,
)
from petiole.events.errors import InvalidEvent
from petiole.events.ids import delivery_ids, emitted_event_id, new_event_id

HELLO = TextContent(text="Hello")
NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def a_message(**fields: object) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": "conversation-1", "content": HELLO} | fields)


def refusal_of(field: str, value: object) -> str:
    """Say why a message with this value in this field is refused."""
    with pytest.raises(ValidationError) as caught:
        a_message(**{field: value})
    return next(finding["msg"] for finding in caught.value.errors() if finding["loc"][0] == field)


def test_an_event_needs_only_a_stream_and_a_content() -> None:
    before = datetime.now(UTC)

    event = TextMessageEvent(stream_id="conversation-1", content=TextContent(text="Hello"))

    assert event.event_type == "input.message.received"
    assert UUID(event.event_id).version == 7
    assert before <= event.timestamp <= datetime.now(UTC)
    assert event.context == EventContext(source="petiole", user_id=None, session_id=None, extra={})
    assert (event.causation_id, event.hops, event.path, event.expires_at) == (None, 0, (), None)
    assert (event.priority, event.schema_version) == (5, 1)


@pytest.mark.parametrize("needed", ["stream_id", "content"])
def test_an_event_without_its_stream_or_its_content_is_refused(needed: str) -> None:
    fields = {"stream_id": "conversation-1", "content": {"text": "Hello"}}
    del fields[needed]

    with pytest.raises(ValidationError, match=needed):
        TextMessageEvent.model_validate(fields)


def test_two_events_have_different_ids_and_traces() -> None:
    first, second = a_message(), a_message()

    assert first.event_id != second.event_id
    assert first.trace_id != second.trace_id


def test_an_event_that_nothing_caused_begins_a_flow_of_its_own() -> None:
    event = a_message()

    assert event.correlation_id == event.event_id


def test_an_event_can_join_a_flow_that_exists() -> None:
    event = a_message(correlation_id="flow-7")

    assert event.correlation_id == "flow-7"


def test_a_time_without_a_zone_is_refused() -> None:
    reason = refusal_of("timestamp", datetime(2026, 1, 31, 12, 0))  # noqa: DTZ001 - that is the point

    assert "timezone" in reason


def test_a_time_of_another_zone_is_kept_as_the_same_instant_in_utc() -> None:
    in_new_delhi = datetime(2026, 1, 31, 17, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))

    event = a_message(timestamp=in_new_delhi, expires_at=in_new_delhi)

    assert (event.timestamp, event.timestamp.tzinfo) == (NOON, UTC)
    assert (event.expires_at, event.timestamp.hour) == (NOON, 12)


def test_a_time_in_the_future_is_kept() -> None:
    in_2099 = datetime(2099, 1, 1, tzinfo=UTC)

    assert a_message(timestamp=in_2099).timestamp == in_2099


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_that_utc_cannot_hold_is_refused_like_any_other_bad_time(moment: str) -> None:
    reason = refusal_of("timestamp", moment)

    assert "years 1 to 9999" in reason


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream_id", ""),
        ("stream_id", "s" * 256),
        ("event_id", "not a uuid"),
        ("causation_id", "not a uuid"),
        ("correlation_id", ""),
        ("traceparent", "00-xyz-01"),
        ("event_type", "output.message.sent"),
        ("priority", 10),
        ("priority", -1),
        ("hops", -1),
        ("schema_version", 0),
        ("path", ["memory,tools"]),
        ("path", [""]),
        ("context", {"source": ""}),
        ("context", {"sauce": "x"}),
        ("colour", "red"),
    ],
)
def test_a_value_outside_what_its_field_allows_is_refused(field: str, value: object) -> None:
    assert refusal_of(field, value)


@pytest.mark.parametrize("field", ["priority", "hops", "schema_version"])
@pytest.mark.parametrize("value", [True, "5", 5.0, 2**63, float("nan")])
def test_a_whole_number_is_not_made_out_of_anything_else(field: str, value: object) -> None:
    assert refusal_of(field, value)


@pytest.mark.parametrize("field", ["stream_id", "event_id", "correlation_id"])
@pytest.mark.parametrize("value", [5, True, None])
def test_a_text_is_not_made_out_of_anything_else(field: str, value: object) -> None:
    assert refusal_of(field, value)


def test_an_id_is_kept_in_the_one_form_that_every_store_compares() -> None:
    event = a_message(event_id="0192F0C1-7A5E-7CC3-98C8-3F1D2B6A9E10")

    assert event.event_id == "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"


def test_an_event_and_its_parts_cannot_be_changed() -> None:
    event = a_message()

    for part, field in ((event, "stream_id"), (event.content, "text"), (event.context, "source")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, "something else")


def test_the_trace_id_is_the_second_part_of_the_trace_context() -> None:
    event = a_message(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

    assert event.trace_id == "0af7651916cd43dd8448eb211c80319c"


def test_an_event_expires_at_its_time_and_not_before() -> None:
    event = a_message(expires_at=NOON)

    assert not event.has_expired(NOON - timedelta(microseconds=1))
    assert event.has_expired(NOON)


def test_an_event_without_an_end_never_expires() -> None:
    assert not a_message().has_expired(datetime.max.replace(tzinfo=UTC))


def test_a_caused_event_carries_the_flow_of_its_cause() -> None:
    context = EventContext(source="telegram", user_id="u-1", session_id="s-1", extra={"locale": "en"})
    cause = a_message(context=context, correlation_id="flow-7", path=["input"])

    effect = cause.caused(ContextAssembledEvent, content=AssembledContext(query="Hello"))

    assert type(effect) is ContextAssembledEvent
    assert effect.stream_id == "conversation-1"
    assert effect.context == context
    assert effect.correlation_id == "flow-7"
    assert effect.traceparent == cause.traceparent
    assert effect.path == ("input",)


def test_a_caused_event_names_its_cause_and_counts_one_hop_more() -> None:
    first = a_message()

    second = first.caused(TextMessageEvent, content=HELLO)
    third = second.caused(TextMessageEvent, content=HELLO)

    assert (second.causation_id, third.causation_id) == (first.event_id, second.event_id)
    assert (first.hops, second.hops, third.hops) == (0, 1, 2)


def test_a_caused_event_has_an_identity_urgency_and_end_of_its_own() -> None:
    cause = a_message(priority=9, expires_at=NOON, timestamp=NOON)

    effect = cause.caused(TextMessageEvent, content=HELLO)

    assert effect.event_id != cause.event_id
    assert effect.timestamp > cause.timestamp
    assert (effect.priority, effect.expires_at) == (5, None)


def test_the_fields_given_to_a_caused_event_replace_what_is_carried() -> None:
    cause = a_message()

    effect = cause.caused(TextMessageEvent, content=HELLO, stream_id="conversation-2", priority=9)

    assert (effect.stream_id, effect.priority) == ("conversation-2", 9)
    assert effect.correlation_id == cause.correlation_id


def test_a_cause_refuses_what_the_caused_class_refuses() -> None:
    with pytest.raises(InvalidEvent, match="field 'colour': is an unknown field; remove it"):
        a_message().caused(TextMessageEvent, content=HELLO, colour="red")  # type: ignore[call-arg]  # the point


def test_a_misspelled_field_of_a_caused_event_is_told_with_the_nearest_one() -> None:
    with pytest.raises(InvalidEvent, match=r"message\.greeting: field 'contnt': .* did you mean 'content'\?"):
        a_message().caused(MessageEvent, event_type="message.greeting", contnt={})  # type: ignore[call-arg]  # the point

    with pytest.raises(InvalidEvent, match=r"input\.message\.received: field 'content\.txt': .* did you mean 'text'\?"):
        a_message().caused(TextMessageEvent, content={"text": "Hello", "txt": "Hello"})


def test_a_caused_event_can_be_of_an_open_family() -> None:
    effect = a_message().caused(MessageEvent, event_type="message.greeting", content={"parameters": {"to": "Ada"}})

    assert (effect.event_type, effect.content_type) == ("message.greeting", "greeting")
    assert effect.content.parameters == {"to": "Ada"}


@pytest.mark.parametrize(
    ("model", "topic"),
    [
        (MessageEvent, "custom.greeting"),
        (MessageEvent, "message"),
        (MessageEvent, "messages.greeting"),
        (CustomEvent, "message.greeting"),
        (ErrorEvent, "input.message.received"),
    ],
)
def test_an_event_of_an_open_family_stays_below_the_familys_word(model: type[Event], topic: str) -> None:
    fields = {"event_type": topic, "stream_id": "s", "content": {}}

    with pytest.raises(ValidationError, match="must be a topic below"):
        model.model_validate(fields)


@pytest.mark.parametrize("rest", ["", "Bad Topic!", "*", "a..b", "a.b.c.d.e.f.g.h"])
@pytest.mark.parametrize("model", [MessageEvent, CustomEvent, ErrorEvent])
def test_an_event_of_an_open_family_keeps_to_the_grammar_of_topics(
    model: type[MessageEvent | CustomEvent | ErrorEvent], rest: str
) -> None:
    fields = {"event_type": f"{model.family}.{rest}", "stream_id": "s", "content": {}}

    with pytest.raises(ValidationError, match="is invalid; write 1 to 8 words"):
        model.model_validate(fields)


def test_ids_made_later_sort_after_ids_made_before() -> None:
    milliseconds_of_ids = [UUID(new_event_id()).int >> 80 for _ in range(100)]

    assert milliseconds_of_ids == sorted(milliseconds_of_ids)
    assert abs(milliseconds_of_ids[0] / 1000 - datetime.now(UTC).timestamp()) < 60


def test_a_new_id_is_a_uuid_of_version_7_in_its_usual_form() -> None:
    ids = [new_event_id() for _ in range(100)]

    assert {(UUID(each).version, UUID(each).variant, str(UUID(each)) == each) for each in ids} == {(7, RFC_4122, True)}
    assert len(set(ids)) == 100


def test_the_same_event_on_its_way_to_the_same_subscription_has_the_same_id() -> None:
    first, second = new_event_id(), new_event_id()

    names = ["memory.remember", "memory.recall"]
    assert delivery_ids(first, names) == delivery_ids(first, names)
    assert len({*delivery_ids(first, names), *delivery_ids(second, names)}) == 4


def test_a_delivery_has_the_id_that_any_program_can_work_out() -> None:
    for _ in range(64):
        event = new_event_id()
        assert delivery_ids(event, ["memory.remember"]) == [str(uuid5(UUID(event), "memory.remember"))]


@pytest.mark.parametrize(
    "written",
    [
        "0192F0C1-7A5E-7CC3-98C8-3F1D2B6A9E10",
        "{0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10}",
        "0192f0c17a5e7cc398c83f1d2b6a9e10",
    ],
)
def test_an_id_is_kept_in_one_way_of_writing(written: str) -> None:
    event = TextMessageEvent.model_validate({"stream_id": "s", "content": {"text": "hi"}, "event_id": written})

    assert event.event_id == "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"


def test_what_a_delivery_emits_has_the_same_ids_when_it_runs_again() -> None:
    (delivery,) = delivery_ids(new_event_id(), ["memory.remember"])

    first_run = [emitted_event_id(delivery, index) for index in range(3)]
    second_run = [emitted_event_id(delivery, index) for index in range(3)]

    assert first_run == second_run
    assert len(set(first_run)) == 3


@pytest.mark.parametrize("moment", [5, 5.0, "5", True])
def test_a_number_is_no_time(moment: object) -> None:
    with pytest.raises(ValidationError, match="ISO 8601"):
        TextMessageEvent.model_validate({"stream_id": "s", "content": {"text": "hi"}, "timestamp": moment})
