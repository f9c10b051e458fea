"""Instrumentation."""

from __future__ import annotations
