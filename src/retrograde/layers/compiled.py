r"""Elman, LSTM, the LSTM of 1997 and GRU in C++, forward and back, for one batch or one of each seed.

    outputs, last = layer(mode, x, begin, weights)           # to be differentiated once, for training
    run, last = along(form, x, begin)                        # as ``closed_form.run``: its sweep gives the totals too

``compiled.cpp`` says how it computes. It is built by the C++ compiler of the machine, in a few seconds, against the
torch that is installed, and lies from then on in the ``cache_folder``.
``why_not`` says what is missing where it cannot be had.

Axes are (seed, time, batch, width), in any order in memory but for the last.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from retrograde.core.cache import cache_folder
from retrograde.layers.closed_form import Arriving, Form, Run, Swept, after_one
from retrograde.layers.totals import Gradients

SOURCE = Path(__file__).with_suffix(".cpp")

CAROUSEL = "CAROUSEL"
"""The mode of the LSTM of 1997, which ``torch.nn`` has not."""

KINDS = {"RNN_TANH": 0, "RNN_RELU": 1, "LSTM": 2, "GRU": 3, CAROUSEL: 4}
"""The numbers of ``compiled.cpp``, by the mode of the ``torch.nn`` module."""

GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3, CAROUSEL: 3}
DELTAS = GATES | {"GRU": 4}
ROW = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 6, "GRU": 5, CAROUSEL: 5}
"""Widths, in units: of what U h is added to, of the δ, and of what is kept of a sample's step."""

WEIGHTS = ("input", "recurrent", "input_bias", "recurrent_bias")
"""In the order of ``torch.nn``."""

FEWEST = 8
"""Samples of a block that are worth a thread."""

PATIENCE = 300
"""Seconds for the compiler, which needs five."""

SHORTAGE = r"out of memory|memory exhausted|Cannot allocate memory|Killed signal|No space left"
"""What a compiler says that was given too little of memory or room."""

FLAGS = ("-std=c++20", "-O3", "-fopenmp", "-fPIC", "-shared", "-w")

CAPABILITIES = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}
"""What the compiler has to know of a processor, by torch's name for what it can."""


class _Place(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), *((axis, ctypes.c_int64) for axis in ("seed", "time", "batch"))]

    @classmethod
    def of(cls, value: Float[Tensor, "seed time batch width"] | None) -> "_Place":
        return cls() if value is None else cls(value.data_ptr(), *value.stride()[:3])


class _Layer(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("kind", "seeds", "time", "batch", "width", "hidden", "blocks", "threads")
        ),
        *((name, _Place) for name in ("x", "outputs")),
        *((name, ctypes.c_void_p) for name in ("hidden_before", "cell_before")),
        *((name, ctypes.c_void_p) for name in ("input", "recurrent", "input_bias", "recurrent_bias")),
        *((name, ctypes.c_void_p) for name in ("kept", "last_cell", "lengths")),
    ]


class _Back(ctypes.Structure):
    _fields_ = [
        *((name, _Place) for name in ("direct", "direct_cell", "of_x")),
        *((name, ctypes.c_void_p) for name in ("arriving_exponent", "total", "total_cell", "node_cell")),
        *((name, ctypes.c_void_p) for name in ("exponent", "present", "of_hidden", "of_cell")),
        *((name, ctypes.c_void_p) for name in ("of_input", "of_recurrent", "of_bias")),
    ]


def why_not() -> str | None:
    """Why it cannot be had on this machine; None where it can. Who asks first waits until it is built."""
    found = _library()
    return found if isinstance(found, str) else None


def serves(*tensors: Tensor) -> bool:
    """Whether it can be had for a layer's inputs and weights."""
    if torch.compiler.is_compiling():  # it makes a form of its own
        return False
    first = tensors[0]
    known = first.dtype in (torch.float32, torch.float64) and first.device.type == "cpu"
    same = all(each.dtype == first.dtype and each.device == first.device for each in tensors)
    # what autocast rounds is the kernel's to round
    return known and same and not torch.is_autocast_enabled("cpu") and why_not() is None


@cache
def _library() -> ctypes.CDLL | str:
    """Or what is missing."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"it is for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in CAPABILITIES:
        return "it needs a processor with AVX2"
    if not torch.backends.mkl.is_available():
        return "it needs a torch with MKL"
    name, *options = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    compiler = shutil.which(name)
    if compiler is None:
        return f"there is no C++ compiler '{name}' (Debian's package is g++; CXX names another)"
    home, itself = Path(torch.__file__).parent, Path(compiler).stat()
    command = [
        *(compiler, *options, *FLAGS, *CAPABILITIES[capability], f"-DCPU_CAPABILITY={capability}"),
        *(f"-DCPU_CAPABILITY_{capability}", f"-I{home / 'include'}", f"-L{home / 'lib'}", str(SOURCE)),
    ]
    system = *platform.libc_ver(), str(itself.st_size), str(itself.st_mtime_ns)
    made_of = [SOURCE.read_text(), torch.__version__, *command, *system]
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    try:
        built = cache_folder() / f"compiled-{digest}.so"
        for left in (1, 0):
            said = _build(built, command)
            if said is not None:
                return said
            try:
                return _held_equal(ctypes.CDLL(str(built)))
            except OSError:  # damaged, or of another system
                if not left:
                    raise
                built.unlink(missing_ok=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it cannot be built or loaded: {error}"
    raise AssertionError  # the last attempt has returned or raised


def _held_equal(library: ctypes.CDLL) -> ctypes.CDLL:
    """What both sides count with; raises RuntimeError where they differ, which would be memory of others."""
    found = (ctypes.c_int64 * (2 + 3 * len(KINDS)))()
    library.sizes(found)
    widths = [size for mode in KINDS for size in (GATES[mode], DELTAS[mode], ROW[mode])]
    if list(found) != [ctypes.sizeof(_Layer), ctypes.sizeof(_Back), *widths]:
        raise RuntimeError(f"{SOURCE.name} and {Path(__file__).name} are not of one version")
    return library


def _build(built: Path, command: Sequence[str]) -> str | None:
    """Of several processes at once one builds; what the compiler says against it is kept, and not asked for again."""
    if built.exists():
        return None
    failed = built.with_suffix(".failed")
    built.parent.mkdir(parents=True, exist_ok=True)
    with built.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists() and not failed.exists():
            beside = built.with_suffix(".part")
            whole = [*command, "-o", str(beside), "-ltorch_cpu", "-lc10"]
            done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=PATIENCE)
            if done.returncode == 0:
                beside.replace(built)
                return None
            said = f"{command[0]} cannot build {SOURCE.name}; {failed} says why, without it it is tried again"
            if done.returncode < 0:  # ended by a signal: nothing was said against it
                return f"{command[0]} was ended by signal {-done.returncode}"
            if re.search(SHORTAGE, done.stderr):  # which may have passed the next time
                return f"{command[0]} could not go on: {done.stderr.strip().partition(chr(10))[0]}"
            failed.write_text(f"{said}\n{done.stderr}")
    return failed.read_text().splitlines()[0] if failed.exists() else None


@dataclass(frozen=True)
class _Run:
    """A layer along the batches of some seeds, in as many blocks of samples; all that its way back needs.

    ``begin`` and ``weights`` have an axis of seeds before those of the state, and of the ``torch.nn`` module.
    """

    mode: str
    x: Float[Tensor, "seed time batch width"]
    begin: list[Float[Tensor, "seed batch hidden"]]
    weights: list[Tensor]
    kept: Float[Tensor, "seed block_time_sample row"]
    blocks: int

    @property
    def hidden(self) -> int:
        """The units."""
        return self.weights[1].shape[-1]

    def described(
        self, outputs: Tensor | None = None, last: Tensor | None = None, lengths: Tensor | None = None
    ) -> _Layer:
        seeds, time, batch, width = self.x.shape
        sizes = KINDS[self.mode], seeds, time, batch, width, self.hidden, self.blocks, torch.get_num_threads()
        return _Layer(
            *sizes,
            x=_Place.of(self.x),
            outputs=_Place.of(outputs),
            **_pointers(("kept", "last_cell", "lengths"), (self.kept, last, lengths)),
            **_pointers(("hidden_before", "cell_before"), self.begin),
            **_pointers(("input", "recurrent", "input_bias", "recurrent_bias"), self.weights),
        )

    def back(self, of_inputs: bool, learned: bool, **said: Any) -> "_Found":
        """What is wanted of the gradients; ``said`` are the other fields of ``_Back``."""
        seeds, time, batch, width = self.x.shape
        of_x = self.x.new_empty(seeds, batch, time, width).transpose(1, 2) if of_inputs else None
        of_begin = [torch.empty_like(part) for part in self.begin]
        gates, deltas = GATES[self.mode] * self.hidden, DELTAS[self.mode] * self.hidden
        shapes = ((width, gates), (self.hidden, gates), (deltas,)) if learned else ()
        sums = [self.x.new_empty(seeds, self.blocks, *shape) for shape in shapes]
        back = _Back(
            of_x=_Place.of(of_x),
            **_pointers(("of_hidden", "of_cell"), of_begin),
            **_pointers(("of_input", "of_recurrent", "of_bias"), sums),
            **said,
        )
        _call("backward", self.x.dtype, self.described(), back)
        return _Found(of_x, of_begin, self._of_weights(*sums) if learned else [])

    def _of_weights(self, of_input: Tensor, of_recurrent: Tensor, of_bias: Tensor) -> list[Tensor]:
        """Of all blocks, as ``torch.nn`` has them."""
        of_input, of_recurrent, of_bias = (each.sum(1) for each in (of_input, of_recurrent, of_bias))
        biases = [of_bias, of_bias.clone()]  # two: whoever clips gradients changes them in place
        if self.mode == "GRU":  # among whose δ that of U_n h stands before that of the candidate
            both, three = 2 * self.hidden, 3 * self.hidden
            biases = [torch.cat([of_bias[:, :both], of_bias[:, three:]], 1), of_bias[:, :three]]
        return [of_input.mT.contiguous(), of_recurrent.mT.contiguous(), *biases]


@dataclass(frozen=True)
class _Found:
    """Gradients of a run; those of the weights in the order of ``torch.nn``."""

    x: Float[Tensor, "seed time batch width"] | None
    begin: list[Float[Tensor, "seed batch hidden"]]
    weights: list[Tensor]


def _forward(
    mode: str,
    x: Tensor,
    begin: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None = None,
    time_first: bool = False,
) -> tuple[_Run, Float[Tensor, "seed time batch hidden"], Float[Tensor, "seed batch hidden"]]:
    """What the way back needs, outputs, and the last cell where there is one.

    Beyond a sample's length, where lengths are given, outputs are zero and the state stays as it is. ``time_first`` is
    the order of the outputs in memory, in which a dropout would draw for them.
    """
    seeds, time, batch, width = x.shape
    hidden, threads = weights[1].shape[-1], torch.get_num_threads()
    gates = GATES[mode] * hidden
    shapes = [(seeds, gates, width), (seeds, gates, hidden), (seeds, gates), (seeds, gates)]
    for part, shape in zip([*begin, *weights], [(seeds, batch, hidden)] * len(begin) + shapes, strict=True):
        if part.shape != shape or part.dtype != x.dtype or part.device != x.device:
            given, asked = f"{list(part.shape)} of {part.dtype} on {part.device}", f"{list(shape)} of {x.dtype}"
            raise ValueError(f"{mode} of inputs {list(x.shape)} takes {asked} on {x.device}, not {given}")
    if len(begin) != (2 if mode in ("LSTM", CAROUSEL) else 1):
        raise ValueError(f"{mode} does not begin with {len(begin)} states")
    run = _Run(
        mode,
        _dense(x),
        [part.contiguous() for part in begin],
        [part.contiguous() for part in weights],
        x.new_empty(seeds, batch * time, ROW[mode] * hidden),
        # so that each thread has as much to do
        1 if seeds % threads == 0 else min(threads, max(1, batch // FEWEST)),
    )
    outputs = (
        x.new_empty(seeds, time, batch, hidden)
        if time_first
        else x.new_empty(seeds, batch, time, hidden).transpose(1, 2)
    )
    last = torch.empty_like(run.begin[-1]) if len(begin) > 1 else run.begin[-1].new_empty(0)
    ends = None if lengths is None else lengths.long().contiguous()  # held until the call is over
    _call("forward", x.dtype, run.described(outputs, last, ends))
    return run, outputs, last


def _dense(value: Tensor) -> Tensor:
    """Such that the numbers of the last axis stand side by side."""
    return value if value.stride(-1) == 1 else value.contiguous()


def _pointers(names: Sequence[str], tensors: Sequence[Tensor | None]) -> dict[str, int | None]:
    return {name: None if tensor is None else tensor.data_ptr() for name, tensor in zip(names, tensors, strict=False)}


def _call(name: str, dtype: torch.dtype, *arguments: ctypes.Structure) -> None:
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(f"layers/compiled.py: {library}")
    function = getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}")
    function(*(ctypes.byref(each) for each in arguments))


def layer(
    mode: str, x: Float[Tensor, "seed time batch width"], begin: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Float[Tensor, "seed time batch hidden"], Tensor]:
    """Outputs, and the last cell where there is one, without a gradient.

    ``begin`` and ``weights`` have an axis of seeds before those of the state, and of the ``torch.nn`` module.
    """
    made: tuple[Tensor, Tensor] = _Layered.apply(mode, x, *begin, *weights)
    return made


class _Layered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mode: str, x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        run, outputs, last = _forward(mode, x, tensors[:-4], tensors[-4:])
        ctx.mode, ctx.blocks = mode, run.blocks
        ctx.save_for_backward(run.x, *run.begin, *run.weights, run.kept)
        ctx.mark_non_differentiable(last)
        return outputs, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direct: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors, kept = ctx.saved_tensors
        run = _Run(ctx.mode, x, tensors[:-4], tensors[-4:], kept, ctx.blocks)
        direct = _dense(direct)
        found = run.back(ctx.needs_input_grad[1], any(ctx.needs_input_grad[-4:]), direct=_Place.of(direct))
        return None, found.x, *found.begin, *(found.weights or (None, None, None, None))


def along(
    form: Form,
    x: Float[Tensor, "time batch width"],
    begin: tuple[Tensor, ...],
    lengths: Int[Tensor, " batch"] | None = None,
) -> tuple["Along", tuple[Tensor, ...]]:
    """The layer along a batch, as far as each sample goes, and its last state."""
    run, outputs, last = _forward(form.mode, x[None], [part[None] for part in begin], _weights(form), lengths, True)
    blocks = x.new_empty(run.blocks, 0)  # a tensor, as all that is saved for a way back
    hidden = outputs[0, -1] if lengths is None else outputs[0, lengths - 1, torch.arange(len(lengths))]
    return Along(form, run.x[0], begin, outputs[0], [run.kept, blocks]), (hidden, *(last if len(begin) > 1 else ()))


class Along(Run):
    """A layer in one direction along a batch, ready to be swept; ``cells`` are what is kept, and one row a block."""

    @cached_property
    def _run(self) -> _Run:
        begin = [part[None].contiguous() for part in self.begin]
        return _Run(self.form.mode, self.x[None], begin, _weights(self.form), self.cells[0], len(self.cells[1]))

    def sweep(self, arriving: Arriving, learned: bool = True, of_inputs: bool = True, carried: bool = False) -> Swept:
        """The gradients of every state, and of inputs and weights as far as they are wanted.

        Raises ValueError if what is carried is asked for beside them.
        """
        if carried:
            raise ValueError("what is carried is not kept apart from the totals here: closed_form.run does")
        states = len(self.x) + 1, self.x.shape[1]
        names = self.form.components
        direct = {name: _dense(part)[None] for name, part in arriving.values().items()}
        total = {name: self.x.new_empty(*states, self.form.hidden) for name in names}
        of_node = {name: torch.zeros_like(part) for name, part in total.items() if name == "cell"}
        exponent = torch.empty(states, dtype=torch.int32)
        said = torch.empty(len(self.x), states[1], dtype=torch.bool)
        given = None if arriving.exponent is None else arriving.exponent.to(torch.int32).contiguous()
        found = self._run.back(
            of_inputs,
            learned,
            direct=_Place.of(direct["hidden"]),
            direct_cell=_Place.of(direct.get("cell")),
            **_pointers(("arriving_exponent", "exponent", "present"), (given, exponent, said)),
            **_pointers(("total", "total_cell"), list(total.values())),
            **_pointers(("node_cell",), list(of_node.values())),
        )
        present = after_one(said if arriving.reached is None else arriving.reached)
        gradients = Gradients(
            total,
            exponent,
            present.flip(0).cummax(0).values.flip(0),
            {"hidden": after_one(arriving.hidden)} | of_node,
            torch.zeros_like(exponent) if given is None else after_one(given),
            present,
        )
        of_inputs_here = None if found.x is None else found.x[0]
        of_weights = dict(zip(WEIGHTS, (part[0] for part in found.weights), strict=False))
        of_weights = {name: of_weights[name] for name in self.form.given.named() if learned}
        return Swept(gradients, of_inputs_here, of_weights, {}, {}, torch.zeros_like(exponent))


def _weights(form: Form) -> list[Tensor]:
    """With an axis of seeds, and biases of zero where there are none."""
    there = form.given.named()
    none = there["recurrent"].new_zeros(form.gates)
    return [there.get(name, none)[None].contiguous() for name in WEIGHTS]
