"""Agents, one file each: what it hears at the top, what it decides below. They never know each other."""
