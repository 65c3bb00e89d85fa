"""The step that all optimizers share: one class cut in five links, each the base of the next.

====================  ===================  ==============================================================
file                  class                adds
====================  ===================  ==============================================================
``tailed.py``         TailedOptimizer      what a step does besides the update: clip, skip, average, zero
``stateful.py``       StatefulOptimizer    the states of the parameters, made and laid out
``grouped.py``        GroupedOptimizer     param groups, their checks, and checkpoints
``partly_fused.py``   PartlyFused          parameters that torch's loop updates
``fused.py``          FusedOptimizer       ``step`` itself: one native call
====================  ===================  ==============================================================

`SGD`, `Adam` and the other optimizers follow. The other files hold what the links use: ``precision.py``,
``placeholders.py``, ``statistics.py`` and ``watched.py``.
"""
