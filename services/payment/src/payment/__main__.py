"""``python -m payment api | worker | relay | migrate``."""

from chassis.run import main
from payment.main import PROGRAM

main(PROGRAM)
