"""Gateways: protocols by which clients reach the agents over HTTP.

application.py          all gateways as one ASGI application, for `petiole serve` and for an application of your own
access.py               access control, in front of all gateways and of the console
authentication.py       who calls
identities.py           whose streams a caller may use
tokens.py, oidc.py      tokens of the token file, and of an OpenID Connect issuer
problems.py             errors as HTTP responses
messages.py             POST a message of a user
server_sent_events.py   read answers
webhooks.py             events of other systems
flows.py                a user message, and what the agents do until its answer is ready, as steps
ag_ui.py, ag_ui_run.py  AG-UI: the endpoints, and the events of a run
a2a.py, a2a_tasks.py    A2A: the requests, and a flow as a task
mcp_server.py           MCP: the agents as tools, their events as resources
voice.py                speak and listen over a WebSocket

Each gateway has `routes(bus)`. All read and write the same streams, and keep nothing in their process: a client that
reconnects to another server continues where it was.
"""
