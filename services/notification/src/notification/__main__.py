"""``python -m notification api | worker | relay | migrate``."""

from chassis.run import main

main("notification")
