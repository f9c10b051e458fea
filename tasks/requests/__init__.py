"""STATION 6, requests: one asks, one answers, and who asked gets that answer or is told why there is none.

asking.py       request(…): who asks, and until when
pending.py      waiting for the answer in a thread
inboxes.py      waiting for answers in an asyncio loop
answering.py    a function that answers, as a handler
responses.py    the answer, as an event and as a value
"""
