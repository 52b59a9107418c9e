"""``python -m inventory api | worker | relay | migrate``."""

from chassis.run import main

main("inventory")
