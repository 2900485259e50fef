"""`spider`, `python -m spider`, and `torchrun -m spider`: the command line.

Ctrl-C while the program loads, or after its command has ended, ends the process as it ends any other program: at once,
without a traceback. While a command runs, the command answers it.
"""

from __future__ import annotations

import signal


def main() -> None:
    """The console script `spider`."""
    # A shell that starts a command in the background has SIGINT ignored, and so it stays
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from spider.cli.main import main

    try:
        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    finally:
        if is_heard:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
