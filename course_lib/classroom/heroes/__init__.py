"""The picture that a chapter opens with, one module per topic.

A module has one function, ``show()``, without arguments: it loads the chapter's checkpoint, shows
what it makes with an alternative text, and prints one line on what the checkpoint cost to train.
Everything is fixed by seeds.  It defines nothing that the notebook goes on to use.
"""

import importlib
import pkgutil


def show_hero(topic: str) -> None:
    """Show the picture that the chapter on `topic` opens with.

    Raises ValueError for a topic without one.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if topic not in known:
        raise ValueError(f"expected a topic with an opening picture: {known}, got {topic!r}")
    importlib.import_module(f"{__name__}.{topic}").show()
