"""Sessions: the state of each conversation, from its first message to its end.

session.py          Session, and the functions that start, open and end one
working_memory.py   values that the handlers of a session share
expiry.py           the periodic task that ends idle sessions
errors.py           errors for sessions that do not exist or have ended
"""
