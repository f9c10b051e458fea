"""Names that a stranger may choose for a stream, a flow, a request or an account, to reach what belongs to another."""

from __future__ import annotations

SUFFIXES = (
    *(":open", ":slots", ":reply", ":window", ":times", ":tokens", ":texts", ":removed", ":reported", ":active"),
    *(":of:a", ":wakeup", ":0", ":state", ":memory", ":events", ":version", ":changes", ":blocks", ":done", ":lock"),
    *(":", "::", "%3A", "%253A", "%", "*", "?", "[a]", "{a}", "{", "}", "\n", "\r\n", "\0", " ", "\x06\x16", "/", "\\"),
    *("ü", "\u2028", "\u202e", "|", "'", '"'),
)
"""What is appended to another's name: the ends of keys, separators, wildcards, hash tags, line ends, NUL."""

HOSTILE_NAMES = tuple(
    dict.fromkeys(
        (
            *("vic", "active", "open", "directory", "async", "async:1", "a:b", "petiole:directory", "*"),
            *(f"vic{suffix}" for suffix in SUFFIXES),
            *(f"vic{suffix}a" for suffix in SUFFIXES),
            *(f"{suffix}vic" for suffix in SUFFIXES),
        )
    )
)
