"""Steps on explicit lists of tensors: how arguments are checked and named, and how a list reaches the core.

``arguments.py`` and ``kinds.py`` look at one value; ``overlap.py`` and ``layout.py`` at the memory of whole lists;
``run.py`` calls the core with them. The classes of ``_step`` build on this folder.
"""
