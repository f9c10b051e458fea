"""Agents of other frameworks, run by handlers: what has finished is not repeated after a crash.

pydantic_ai.py      Pydantic AI
"""
