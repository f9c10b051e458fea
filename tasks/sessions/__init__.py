"""Sessions: each conversation as such, from its first message to its end.

session.py          what is asked of one: entered at the door, kept up, ended
working_memory.py   what its handlers keep for each other
sweep.py            what beat ends, because nothing happens in it
errors.py           how those who ask for one are told that there is none
"""
