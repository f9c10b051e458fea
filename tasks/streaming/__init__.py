"""Drafts: an answer while it is written.

writing.py      what a handler writes bit by bit, and what interrupts it
reading.py      what a reader sees of it, who may come late or come back
"""
