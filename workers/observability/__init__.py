"""What is seen of a process from outside. Observers watch; they change no outcome."""
