"""A rank of a tiny PPO run whose responses come from the launcher's sampler.

``python -m launched_sampler FOLDER POLICY [kill]``: with ``kill``, the sampler is killed while it
samples for the second update, and the run is asked to save and end after it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from rlhf.errors import EXIT_SAVED
from rlhf.models.roots import TokenScorer
from rlhf.online.served_sampler import ServedSampler
from rlhf.runtime.deadline import Saved
from rlhf.runtime.processes import children, command_line
from rlhf.runtime.tls import FOLDER_VARIABLE, Certificates
from rlhf.serving.vllmserver import SERVER
from rlhf.training import distributed
from support.sampled_policies import Policy, client_of
from support.tiny_online import EOS, config, prompts_in, trainer

UPDATES, LONGEST = 3, 24


def kill_sampler() -> None:
    """Its first process alone: the others have to be found by whoever clears up."""
    parent = os.getppid()
    while not (found := [pid for pid in children(parent) if SERVER in command_line(pid)]):
        parent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(found[0], signal.SIGKILL)


class KillsWhileSampling(ServedSampler):
    def sample(self, prompts, noise):
        if self._refreshes == 2 and distributed.rank() == 0:
            threading.Timer(0.02, kill_sampler).start()
        responses = super().sample(prompts, noise)
        if self._refreshes == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return responses


def main() -> None:
    folder, policy, *kill = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.start()
    certificates = Certificates(Path(os.environ[FOLDER_VARIABLE]))
    start = Policy(Path(policy))
    client = client_of(os.environ["RLHF_ENDPOINT_SAMPLER"], start, certificates)
    model = TokenScorer(start.load())
    weights = certificates.folder.with_name("weights")
    sampler = (KillsWhileSampling if kill else ServedSampler)(
        client, weights, model, "policy.", EOS, LONGEST, 1.0, torch.float32
    )
    settings = config(
        updates=UPDATES, sampling__sampler="vllm", sampling__max_new_tokens=LONGEST,
        optimizer__learning_rate=1e-2,
    )  # fmt: skip
    learner = trainer(
        prompts_in(Path(folder) / "prompts"), Path(folder) / "state", settings,
        model=model, sampler=sampler,
    )  # fmt: skip
    try:
        run = learner.train()
    except Saved:
        sys.exit(EXIT_SAVED)
    if distributed.rank() == 0:
        assert len([path for path in weights.iterdir() if path.is_dir()]) == 1  # the latest
        shown = {name: run.journals[name].records() for name in ("metrics", "samples")}
        (Path(folder) / "shown.json").write_text(json.dumps(shown))
    distributed.finish()


if __name__ == "__main__":
    main()
