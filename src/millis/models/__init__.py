"""Pretrained encoders: find one, give it a head for tokens, run it as the fp32 reference.

Border: torch and transformers live here and above. Importing this package imports neither; its files do.
"""
