"""``serai doctor``: what a support engineer would look at, and whether sessions are contained.

``checks`` lists all checks, which lie in a module for each of its areas or a few. ``collect`` and
``tenant`` collect what they judge: of the VM, and of two throwaway sessions. ``probe`` is run in
one of them, ``request`` says what it is asked, ``report`` is the command.
"""
