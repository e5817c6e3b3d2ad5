"""What all tests share."""

import os

import torch

# tiny tensors: handing work to a second thread costs more than the work, above all when both cores are busy
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # and in the processes that tests start
os.environ["WANDB_MODE"] = "offline"
