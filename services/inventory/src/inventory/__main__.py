"""``python -m inventory api | worker | relay | migrate``."""

from chassis.run import main
from inventory.main import PROGRAM

main(PROGRAM)
