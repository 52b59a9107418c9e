"""Replay: a topic read again under a group of its own, effects fenced."""
