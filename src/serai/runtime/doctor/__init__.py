"""``serai doctor``: what a support engineer would look at, and whether sessions are contained.

``core`` is what a check is; ``machine``, ``storage``, ``system``, ``calls``, ``inside`` and
``lifetime`` judge; ``collect`` and ``tenant`` collect what they judge; ``probe`` is the payload.
"""
