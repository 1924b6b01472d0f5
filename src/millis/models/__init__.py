"""Pretrained encoders: find one, give it a head for tokens, run it as the fp32 reference.

Border: torch and transformers live here and above. Importing this package imports neither; its files do.

    bases        find one: folder, package, hub; described and weights read what is in it
    taggers      a base with a head; speakers, a model that speaks
    prediction   run it over windows; work, how much there is to do
"""
