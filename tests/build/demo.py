"""A small chapter, and the declarations of its exercises."""

from course_lib.checking import Exercise

SOURCE = '''# ---
# jupyter:
#   kernelspec:
#     display_name: Mine
#     name: someone-elses-kernel
# ---

# %% [markdown]
# # A chapter
# Words.

# %%
from course_lib.classroom import exercise

# %% [markdown]
# ## Double it
# Multiply by two.
#
# <details><summary>Hint 1</summary>
#
# return amount * factor + shift
# </details>

# %% exercise: double it
@exercise("demo.double")
def double(amount, factor=2, shift=0):
    """Twice the amount."""
    # SOLUTION
    return amount * factor + shift
    # END

# %% [markdown]
# ### Two answers in one cell

# %% exercise: a class
@exercise("demo.box")
class Box:
    def __init__(self, side):
        # SOLUTION
        self.side = side  # kept
        # END

    def area(self):
        if self.side:
            # SOLUTION
            area = self.side ** 2
            return area
            # END
        return 0

# %% tags=["nbval-check-output"]
print(double(2))

# %%
print("again")

# %%
print("again")
'''


def declare(monkeypatch):
    """Let the build find the exercises of the chapter above."""
    for module in ("course_lib.build.source", "course_lib.build.nbgrader"):
        monkeypatch.setattr(f"{module}.find_exercise", _find)


def _find(name):
    return Exercise(name, abs, lambda rng: [], equation="Eq. 4", points=1, stars=2, minutes=5)
