"""Targets that are fed with what nobody should send: each can run for as long as one likes.

``python -m tests.fuzz TARGET --seconds 600 --seed 1`` runs one. ``./install.sh test`` runs each for 20 seconds,
``tests/unit/test_fuzz.py`` for a moment.
"""
