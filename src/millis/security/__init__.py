"""Who may ask for what, how often, and what was done: keys, rates, the audit log.

Border: plain functions and files; no HTTP, no models.
"""
