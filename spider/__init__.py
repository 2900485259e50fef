"""Spider: GANs fed by friendly neighbours, and other data-efficient GANs, on a cluster or a laptop.

The verbs of the command line are functions of the same names in `spider.api`.
"""

from spider.version import VERSION as __version__

__all__ = ["__version__"]
