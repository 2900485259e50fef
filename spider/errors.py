"""What goes wrong in spider, as one line for the person who ran it.

The command line catches these, prints ``error: <message>`` and exits with the class's `exit_code`.
"""


class SpiderError(Exception):
    """Something failed that was asked for rightly: a missing file, a damaged one, a number that is not finite."""

    exit_code = 1


class SpiderUsageError(SpiderError):
    """What was asked for cannot be: an unknown name, a value out of range, a combination that is refused."""

    exit_code = 2
