"""`python -m spider`, and `torchrun -m spider`: the command line."""

from spider.cli.main import main

if __name__ == "__main__":
    main()
