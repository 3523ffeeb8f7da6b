"""What a trace id may be, whoever sends it: the one pattern."""

from __future__ import annotations

import re

# ASCII, because the trace id is echoed in a header.
TRACE_ID = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
TRACE_ID_WISH = "1 to 128 printable ASCII characters are wanted, no blank at either end: change it"
