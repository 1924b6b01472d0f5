"""Passes that make a model compute less or move fewer bytes, one per file.

Border: a pass reads a folder and writes another, never edits in place, and tells what it did and what it cost.
"""
