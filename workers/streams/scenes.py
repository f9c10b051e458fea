"""How much a picture differs from an earlier one. Needs the extra `video`.

Pictures are compared as thumbnails in gray, so that noise and small movements count little.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from petiole.events.content import VideoContent
from petiole.events.errors import InvalidEvent, missing_extra

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL: Final = (32, 32)
SCENE_DIFFERENCE: Final = 0.15
MAX_PIXELS: Final = 3_840 * 2_160
_COMPRESSED: Final = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
_TOPIC: Final = "input.video.frame"


def make_thumbnail(content: VideoContent) -> bytes:
    """Return a frame as a gray thumbnail, a byte a pixel. Raises InvalidEvent, UsageError (missing_extra)."""
    if content.width * content.height > MAX_PIXELS:
        reason = f"makes {content.width} x {content.height} pixels; send at most {MAX_PIXELS:,}"
        raise InvalidEvent(_TOPIC, "content.width", reason)
    return _open(content).convert("L").resize(THUMBNAIL).tobytes()


def measure_difference(one: bytes, other: bytes) -> float:
    """Return the mean difference of two thumbnails, from 0 to 1."""
    return sum(abs(first - second) for first, second in zip(one, other, strict=True)) / (255 * len(one))


def _open(content: VideoContent) -> Image:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra("looking at video", "video") from error
    size = (content.width, content.height)
    if content.format == "rgb24":
        if len(content.data) != 3 * content.width * content.height:
            reason = f"has {len(content.data)} bytes instead of 3 for each of {content.width} x {content.height} pixels"
            raise InvalidEvent(_TOPIC, "content.data", f"{reason}; correct the size")
        return Image.frombytes("RGB", size, content.data)
    if content.format not in _COMPRESSED:
        reason = f"is {content.format[:60]!r}; send rgb24, {', '.join(_COMPRESSED)}"
        raise InvalidEvent(_TOPIC, "content.format", reason)
    try:
        # The header is checked before anything is decompressed.
        image = Image.open(io.BytesIO(content.data), formats=[_COMPRESSED[content.format]])
        if image.size == size:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = f"cannot be decoded as {content.format} ({type(error).__name__}); send a whole picture"
        raise InvalidEvent(_TOPIC, "content.data", reason) from error
    if image.size != size:
        reason = f"is a picture of {image.width} x {image.height} pixels, not of {content.width} x {content.height}"
        raise InvalidEvent(_TOPIC, "content.data", f"{reason}; correct width and height")
    return image
