"""The pages that ``course grade`` writes: a student's feedback, and a report on the whole class.

Each is one HTML file that needs nothing else: no script, no network, no font.
"""

from .feedback import feedback_page
from .overview import class_page

__all__ = ["class_page", "feedback_page"]
