"""A torch model to the files that a runtime reads; each step ends by comparing outputs with the source model.

Border: changes the form of a model, never what it computes; making it compute less is compressing's matter.
"""
