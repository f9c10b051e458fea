"""The agents of the worker process of a conformance run; PETIOLE_AGENTS names this module."""

from __future__ import annotations

from petiole.workers.conformance.agents import agents_of_environment

one, two = agents_of_environment()
