"""Who acts on it: agents, the parts they use, and the processes they run in.

agents/       one file per agent: what it hears at the top, what it makes of it below
llm/ tools/ channels/ recall/    what agents use, behind small protocols, one file each
celery.py     `celery -A workers worker`: the app with its agents loaded
loading.py    which agents those are
lifecycle.py  what a worker does when it starts
broker.py     the embedded broker
cli/          one file per command
"""
