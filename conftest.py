"""Import first what shares its name with a folder of this tree, so that a test's path never shadows the package."""

import chassis  # noqa: F401 - chassis/tests would otherwise become the package "chassis"
import sandbox  # noqa: F401 - as above
