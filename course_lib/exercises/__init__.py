"""Every exercise of the course: reference, cases and misconceptions, one module per paper."""

# A module that is not listed here is a topic of its own.
TOPIC_OF = {"magvit2": "magvit", "ldm": "svd"}
