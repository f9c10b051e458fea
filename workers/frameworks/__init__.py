"""Agents of other frameworks, run by handlers: what has finished is not repeated after a crash.

operations.py       requests to models and calls of tools, as operations of the delivery
pydantic_ai.py      Pydantic AI
openai_agents.py    the OpenAI Agents SDK
"""
