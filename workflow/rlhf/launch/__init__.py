"""``rlhf launch``: run one stage wherever it is to run. No torch in here.

The coordinator claims the state folder and starts one agent on each node, through srun inside a
SLURM job; outside of one it is the agent itself. An agent starts its node's model servers, waits
until each one answers, starts the stage's ranks with their endpoints, watches both, forwards
signals, passes the exit code on, and leaves nothing running.

Exit codes: the stage's own (75: saved, run me again); 128 + n when signal n ended it; 1 when a
server failed; 2 for a wrong command line, or a place that is not what the command line says.
"""
