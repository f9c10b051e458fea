"""Gateways: protocols by which clients reach the agents over HTTP.

voice.py    speak and listen over a WebSocket

Each gateway has `routes(bus)`. All read and write the same streams, and keep nothing in their process.
"""
