"""Processes: the embedded broker, discovery of agents, heartbeats, lifecycle."""
