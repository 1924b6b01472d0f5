"""Labelled text from files: readers, splits, lengths, checks, and the demo corpus.

Border: text and character spans; knows no tokenizer, no model and no array.
"""
