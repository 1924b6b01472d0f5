"""Fine-tune an encoder on labelled text, without losing work and without wasting a token.

Border: base and examples in, a trained folder out; compiling and measuring are other rooms.
"""
