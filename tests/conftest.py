"""What all tests share."""

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
import wandb

from loopback import LoopbackServer
from retrograde.layers import compiled

# tiny tensors: handing work to a second thread costs more than the work, above all when both cores are busy
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # and in the processes that tests start
os.environ["WANDB_MODE"] = "offline"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
# what takes long to encode is encoded once for all workers, and not into the user's own cache
os.environ["RETROGRADE_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "retrograde")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is loaded and collected here stays to the end: no search for garbage goes through it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision, in which identities are claimed, and one seed."""
    torch.set_default_dtype(torch.float64)
    # torch.manual_seed also notes the call, and the stack it came by, for every kind of device that may yet be found
    (torch if torch.cuda.is_available() else torch.default_generator).manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def cpp() -> None:
    """What needs ``layers/compiled.py``; it is skipped where that cannot be had."""
    reason = compiled.why_not()
    if reason is not None:
        pytest.skip(f"compiled: {reason}")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    """A stand-in for W&B's server, which this process and those that it starts take for the real one."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with LoopbackServer() as server:
        for name, value in server.environment(tmp_path / "wandb").items():
            monkeypatch.setenv(name, value)
        (tmp_path / "wandb").mkdir()
        wandb.teardown()
        yield server
        wandb.teardown()
