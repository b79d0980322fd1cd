"""The peers of the section `peers`: each module plays the same dialogues with one of them, in a process of its own.

They need nothing of this package but `dialogues`, because the peers live in another virtual environment.
"""
