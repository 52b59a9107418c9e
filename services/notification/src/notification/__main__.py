"""``python -m notification api | worker | relay | migrate``."""

from chassis.run import main
from notification.main import PROGRAM

main(PROGRAM)
