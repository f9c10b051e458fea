"""Breakers: what agents depend on is left alone by all workers while it is down, and tried again by one.

guards.py           @guarded(…): what stands around a call
trying.py           when a call is tried again here
circuits.py         one call's way through a circuit
blame.py            whose fault an error is
circuit_events.py   what is told of a circuit's changes
unguarded.py        what is done where the state store is away
"""
