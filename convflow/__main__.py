"""`python -m convflow` is `convflow`."""

import sys

from convflow.cli.main import main

sys.exit(main())
