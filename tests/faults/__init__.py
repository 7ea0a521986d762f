"""Faults that are injected and counted: killed runs, flipped bits, damaged files.

``python -m tests.faults --help`` runs and counts them; ``test_faults.py`` is the short form.
"""
