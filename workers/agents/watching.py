"""Watching: looks at the frames of a video and publishes when the picture changes. Needs the extra `video`.

Under load the newest frames count: the queue has room for a few, and the oldest is dropped for a new one. The counter
`dropped_oldest:watching` tells how many (`petiole counters`). A frame above PETIOLE_CLAIM_CHECK_THRESHOLD_BYTES waits
in the queue as a reference, so a dropped frame was never fetched.
"""

from __future__ import annotations

import importlib.util
from typing import Final

from petiole.events.catalog.input import VideoFrameEvent
from petiole.events.catalog.stream import SceneChange, SceneChangedEvent
from petiole.events.ids import derived_event_id
from petiole.tasks import Agent, Context
from petiole.workers.state import team_state
from petiole.workers.state.scenes import Scene
from petiole.workers.streams.scenes import SCENE_DIFFERENCE, make_thumbnail, measure_difference

MAX_WAITING_FRAMES: Final = 8

agent = Agent("watching", capacity=MAX_WAITING_FRAMES, overflow="drop_oldest")


def watch_frame(event: VideoFrameEvent, context: Context) -> SceneChangedEvent | None:
    """Compare a frame with the first one of the scene, and publish the change if it begins another scene.

    Raises InvalidEvent, UsageError (missing_extra).
    """
    scenes, sequence = team_state(context.bus).scenes, event.content.sequence
    scene = scenes.read(event.stream_id)
    if scene is not None and sequence <= scene.sequence:
        # The frame is older than the scene; or it began the scene, and an earlier attempt did not get to its end.
        return build_scene_changed(event, scene) if sequence == scene.sequence else None
    thumbnail = make_thumbnail(event.content)
    if scene is None:
        scenes.put(event.stream_id, Scene(sequence=sequence, thumbnail=thumbnail.hex()))
        return None
    difference = measure_difference(bytes.fromhex(scene.thumbnail), thumbnail)
    if difference < SCENE_DIFFERENCE:
        return None
    new = Scene(sequence=sequence, thumbnail=thumbnail.hex(), difference=difference, previous_sequence=scene.sequence)
    scenes.put(event.stream_id, new)
    return build_scene_changed(event, new)


def build_scene_changed(event: VideoFrameEvent, scene: Scene) -> SceneChangedEvent | None:
    """Build the event for a change; None for the first scene. Its id derives from the scene before: it changes once."""
    if scene.previous_sequence is None:
        return None
    event_id = derived_event_id(event.stream_id, "scene after", scene.previous_sequence)
    content = SceneChange(sequence=scene.sequence, difference=scene.difference)
    return event.caused(SceneChangedEvent, event_id=event_id, content=content)


@agent.on_include
def subscribe_watching() -> None:
    """Subscribe, if the extra `video` is installed: without it, frames would only become dead letters."""
    if importlib.util.find_spec("PIL") is not None:
        agent.on("input.video.frame")(watch_frame)
