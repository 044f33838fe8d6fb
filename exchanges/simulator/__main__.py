"""`python -m exchanges.simulator`: the simulator without Django."""

import sys

from exchanges.simulator.server import main

sys.exit(main())
