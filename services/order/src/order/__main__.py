"""``python -m order api | worker | relay | migrate``."""

from chassis.run import main
from order.main import PROGRAM

main(PROGRAM)
