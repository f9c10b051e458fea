"""Response streams: a response is readable while it is being written.

writer.py       a handler writes the response in chunks and may be interrupted
reader.py       readers receive the chunks and may join late or resume
"""
