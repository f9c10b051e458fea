"""Lua scripts of the agents' state, one file for each atomic step."""
