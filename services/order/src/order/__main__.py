"""``python -m order api | worker | relay | migrate``."""

from chassis.run import main

main("order")
