"""Trust: who may publish and who may hear which events, and signatures that prove who published one.

    policy.py        rules as data (TOML); default.toml has those that hold without a file
    signing.py       HMAC keys of publishers, and the bytes that a signature covers
    trust.py         both together: checked by the publisher, by a worker that starts, and before each handler

An event's JSON has two members that are no fields of it: `publisher`, and `signature` if its publisher has a key.
"""
