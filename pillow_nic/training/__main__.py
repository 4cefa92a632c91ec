"""``python -m pillow_nic.training``."""

from .train import main

main()
