"""Conformance: try the promises of the backbone on a broker, and compare brokers.

agents.py        the agents that the promises need; they record what they handle
promises.py      the promises, each a function that tries it on a system
system.py        a bus and its worker, in this process or on a broker
worker_agents.py the agents of the worker process
"""
