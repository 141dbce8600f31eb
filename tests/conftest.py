from __future__ import annotations

import signal

# A shell that starts something in the background makes it deaf to Ctrl-C, and all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
