"""One process of a two-process run: trains on its half of one batch, rank 0 saves the weights."""

import sys

import tiny
import torch
from test_train import Loader, weights

import seqlib
from seqlib.train import FitConfig, distributed, fit

rank, world_size = distributed()
assert world_size == 2
loader = Loader(1)
loader.batches = [tiny.batch(lengths=(3, 5, 2, 7), n_candidates=3)[2 * rank : 2 * rank + 2]]
model = seqlib.build("mean_pooling", tiny.spec(), seed=0)
fit(model, loader, FitConfig(epochs=3), device="cpu")
if rank == 0:
    torch.save(weights(model), sys.argv[1])
torch.distributed.destroy_process_group()
