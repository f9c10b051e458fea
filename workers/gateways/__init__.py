"""Gateways: what other programs and browsers reach over HTTP, and who may use it."""
