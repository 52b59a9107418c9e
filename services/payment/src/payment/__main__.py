"""``python -m payment api | worker | relay | migrate``."""

from chassis.run import main

main("payment")
