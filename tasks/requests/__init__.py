"""Request and reply: an agent or service sends a request, and gets a reply or an error by the deadline.

requester.py        request(…): send a request
pending.py          wait for the reply in a thread
async_replies.py    wait for replies in an asyncio event loop
responder.py        turn a function into a handler that replies

events/responses.py has the reply as an event and as a value.
"""
