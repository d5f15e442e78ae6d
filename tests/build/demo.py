"""A small chapter, and the declarations of its exercises."""

from types import SimpleNamespace

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


def find(name):
    return SimpleNamespace(id=name, stars=2, minutes=5, points=1, equation="Eq. 4")
