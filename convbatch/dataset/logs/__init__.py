"""Logs of other tools as dialogues: recorded requests and replies, put together to conversations, for `convert`."""
