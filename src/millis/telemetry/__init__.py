"""What a person sees while something runs: progress, stage times, metrics.

Border: numbers and names; never a user's text.
"""
