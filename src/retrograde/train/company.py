"""Several runs in one process, each whole and by itself, whose steps are computed together.

Every run has a thread, and one of them is at work at a time: it opens its folder, is probed, validated, recorded and
tested there as it would be alone. Only for a round of steps does it wait for the others. When none is left that does
not, the round is computed for all that stand at the lowest step, as one model with an axis of seeds; see
``core.ensemble``. A run that has solved its task, diverged, or failed leaves; one that goes on from an earlier
checkpoint catches up first.

Each run has random numbers and a default precision of its own, and a clock that counts its own turns and its share of
what is computed together: what probing may cost, and how long it took, is counted by that.
"""

import copy
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.ensemble import Ensemble, refusal
from retrograde.core.joint_optimizer import JointOptimizer, NotElementwise, stacked_entries
from retrograde.core.records import Batch
from retrograde.core.recurrence import LOOP, Recurrence
from retrograde.train.devices import device_kind, now, threads
from retrograde.train.forms import heard
from retrograde.train.interruption import Interrupted, Interruption, ended_by
from retrograde.train.options import AUTO, Job
from retrograde.train.ranks import count
from retrograde.train.streams import generator

if TYPE_CHECKING:  # which uses this module
    from retrograde.train.module import Training

TRIALS, WORTHWHILE = 4, 0.9
"""Steps that are tried, and the share of the time in turn that they may take to be computed together."""

RUNS, WAITS, ENDED = "runs", "waits", "ended"
"""What a member is at: its own work, the next round, nothing any more."""


class Member:
    """One run of a company."""

    def __init__(self, company: "Company", place: int) -> None:
        self.company = company
        self.place = place
        self.interruption = Interruption()
        self.training: Training | None = None
        self.state = RUNS
        self.until = 0
        self.by_itself = False
        self.failure: BaseException | None = None
        self.spent = 0.0
        self.since: float | None = None
        self.random, self.dtype = torch.get_rng_state(), torch.get_default_dtype()

    def clock(self) -> float:
        """Seconds that this run has taken so far."""
        return self.spent + (0.0 if self.since is None else time.perf_counter() - self.since)

    @contextmanager
    def stepping(self, training: "Training") -> Iterator[None]:
        """For as long as this lasts the training's rounds are taken in company."""
        self.training, training.member = training, self
        try:
            yield
        finally:
            self.training = training.member = None

    def round(self, until: int) -> bool:
        """A round, up to that step at most, with all that stand where this run does; False where it takes it alone."""
        self.state, self.until, self.by_itself = WAITS, until, False
        self.company.go_on(self)
        if self.failure is not None:
            raise self.failure
        return not self.by_itself


class Company:
    """The runs, of which ``why_not`` has nothing to say."""

    def __init__(self, size: int) -> None:
        self.turn = threading.Condition()
        self.at: Member | None = None
        self.over: type[Interrupted] | None = None
        self.members = [Member(self, place) for place in range(size)]
        self.gathered: list[Training] = []
        self.joint: JointOptimizer | None = None

    def carry_out(self, runs: "Sequence[Callable[[Member], None]]") -> list[BaseException | None]:
        """All of them, to their ends; what each raised, in their order. Signals reach those that are stepping.

        A second signal ends them at once, and is raised when each has written that down.
        """
        raised: list[BaseException | None] = [None for _ in runs]

        def work(member: Member, run: Callable[[Member], None]) -> None:
            try:
                self._await(member)
                self._begin(member)
                if member.interruption.asked is not None:
                    raise Interrupted(member.interruption.asked)
                run(member)
            except BaseException as error:  # the others go on; whoever has asked for this run hears of it
                raised[member.place] = error
            member.state = ENDED
            self.go_on(member)

        workers = [
            threading.Thread(target=work, args=pair, name=f"run {pair[0].place + 1}", daemon=True)
            for pair in zip(self.members, runs, strict=True)
        ]
        before = torch.get_rng_state(), torch.get_default_dtype()
        interruption = Interruption()
        try:
            with interruption.heeded():
                interruption.stepping = True  # who is asked to end is asked once, and a second time ends at once
                for thread in workers:
                    thread.start()
                with self.turn:
                    self.at = self.members[0]
                    self.turn.notify_all()
                for thread in workers:
                    while thread.is_alive():
                        thread.join(0.1)
                        if interruption.asked is not None:
                            for member in self.members:
                                member.interruption.asked = interruption.asked
        except BaseException as error:
            self._end(workers, error)
            raise
        finally:
            torch.set_rng_state(before[0])
            torch.set_default_dtype(before[1])
        return raised

    def go_on(self, member: Member) -> None:
        """Give the turn to who has work of its own, or compute a round where nobody has; and wait for the next turn."""
        self._pause(member)
        if self.over is None:
            chosen = self._next()
            while chosen is None and any(one.state == WAITS for one in self.members):
                self._round()
                chosen = self._next()
            with self.turn:
                self.at = chosen
                self.turn.notify_all()
        if member.state != ENDED:
            self._await(member)
            self._begin(member)

    def _await(self, member: Member) -> None:
        """The member's turn, or the end of all."""
        with self.turn:
            self.turn.wait_for(lambda: self.over is not None or self.at is member)
        if self.over is not None:
            raise self.over

    def _end(self, workers: Sequence[threading.Thread], error: BaseException) -> None:
        """Of every run, at once: who waits is woken, and who is at work is interrupted as a signal would do it."""
        self.over = ended_by(error.number if isinstance(error, Interrupted) else signal.SIGINT)
        with self.turn:
            at = self.at
            self.turn.notify_all()
        begun = [thread for thread in workers if thread.ident is not None]
        if at is not None and at.place < len(begun):
            raised = ctypes.py_object(self.over)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(begun[at.place].ident or 0), raised)
        for thread in begun:
            thread.join()

    def _next(self) -> Member | None:
        return next((one for one in self.members if one.state == RUNS), None)

    def _begin(self, member: Member) -> None:
        torch.set_rng_state(member.random)
        torch.set_default_dtype(member.dtype)
        member.since = time.perf_counter()

    def _pause(self, member: Member) -> None:
        member.random, member.dtype = torch.get_rng_state(), torch.get_default_dtype()
        member.spent, member.since = member.clock(), None

    def _round(self) -> None:
        """For those at the lowest step."""
        waiting = {one: one.training for one in self.members if one.state == WAITS and one.training is not None}
        lowest = min(training.global_step for training in waiting.values())
        here = {one: training for one, training in waiting.items() if training.global_step == lowest}
        if len(here) == 1:  # it takes the round in its own turn, with its own random numbers
            (lone,) = here
            self._part()
            lone.state, lone.by_itself = RUNS, True
            return
        trainings, begun = list(here.values()), time.perf_counter()
        torch.set_default_dtype(next(iter(here)).dtype)  # Lightning sets it for a step in double precision
        try:
            round_together(trainings, self._gathered(trainings), min(one.until for one in here))
            passed = now(trainings[0].device) - begun
        except BaseException as error:
            if self.over is not None:
                raise
            passed = time.perf_counter() - begun
            said = f"a round of {len(here)} runs together failed: {type(error).__name__}: {error}"
            for one in here:
                one.failure = RuntimeError(said)
                one.failure.__cause__ = error
        for one in here:
            one.state = RUNS
            one.spent += passed / len(here)

    def _gathered(self, trainings: "list[Training]") -> JointOptimizer:
        """The optimiser of these, and no others, with their weights in one piece."""
        if self.joint is None or trainings != self.gathered:
            self._part()
            ensemble = Ensemble([training.model for training in trainings])
            self.joint = JointOptimizer(ensemble, [training.optimizer for training in trainings])
            self.gathered = list(trainings)
        return self.joint

    def _part(self) -> None:
        """Each with weights of its own, as they are."""
        if self.gathered and self.joint is not None:
            self.joint.ensemble.release()
            self.gathered = []


def why_not(jobs: Sequence[Job], if_faster: bool) -> str | None:
    """Why the steps of these are not to be computed together, in one line; None where they are.

    Found by a trial, of models that are built for it; with ``if_faster`` it also tells what takes longer together.
    """
    settings = jobs[0].trainer
    if settings.compile:
        return "trainer.compile makes of one model's objective what knows of no seeds"
    if settings.form != AUTO:
        return f"form={settings.form} names the form of one run; together it is another"
    if not settings.precision.startswith(("32", "64")) and "mixed" not in settings.precision:
        return f"trainer.precision={settings.precision}: its rounding is that of each kernel"
    device = torch.device(device_kind(settings))
    dtype = torch.float64 if settings.precision.startswith("64") else torch.float32
    try:
        with torch.random.fork_rng(), threads(settings.threads):
            models, task = [_built(job, device, dtype) for job in jobs], jobs[0].task
            if task.kind not in models[0].kinds:
                return f"these models are not made for tasks of kind {task.kind}"
            said = refusal(
                models,
                task,
                autocast="mixed" in settings.precision,
                ranks=count(settings),
                regularized=jobs[0].regularizer is not None,
            )
            if said is None:
                for job, model in zip(jobs, models, strict=True):
                    stacked_entries(job.optimizer(model.parameters()))
            return said or (slower(jobs[0], models) if if_faster else None)
    except NotElementwise as error:
        return str(error)
    except Exception as error:  # one by one, each says itself what is wrong with it
        return f"a trial of all {len(jobs)} failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _built(job: Job, device: torch.device, dtype: torch.dtype) -> SequenceModel:
    torch.manual_seed(job.seed)
    model = job.model(job.task).to(device, dtype)
    if job.trainer.truncate is not None:
        model.truncate(job.trainer.truncate)
    return model


def slower(job: Job, models: Sequence[SequenceModel]) -> str | None:
    """What a step of all together takes, where that is no less than in turn, each in its fastest form."""
    device = models[0].like.device
    stream = generator("trial", job.seed, device)
    batches = [job.task.sample(job.batch_size, stream).beside(models[0].like) for _ in models]
    singles = in_each_form(models[0], job.task, batches[0]).values()
    joint = Ensemble(models)

    def alone(model: SequenceModel) -> None:
        model.objective(job.task, batches[0])[0].mean().backward()

    def all_of_them() -> None:
        joint.objective(job.task, batches).losses.sum().backward()

    steps: list[Callable[[], None]] = [*(partial(alone, single) for single in singles), all_of_them]
    taken: list[list[float]] = [[] for _ in steps]
    for _ in range(TRIALS):
        for step, seconds in zip(steps, taken, strict=True):
            begun = now(device)
            step()
            seconds.append(now(device) - begun)
    *each, together = (min(seconds) for seconds in taken)
    in_turn = len(models) * min(each)
    if together <= WORTHWHILE * in_turn:
        return None
    return f"a step of all {len(models)} takes {1e3 * together:.3g} ms together, and {1e3 * in_turn:.3g} ms in turn"


def in_each_form(model: SequenceModel, task: Task, batch: Batch) -> dict[str, SequenceModel]:
    """A copy as it is, under ``auto``, and one by name for every form that a single run may choose, beside the loop."""
    found = {AUTO: copy.deepcopy(model)}
    for call in heard(model, task, batch):
        for name, form in call.forms.items():
            if form.timed and name != LOOP and name not in found:
                found[name] = copy.deepcopy(model)
                for module in found[name].modules():
                    if isinstance(module, Recurrence):
                        module.form = name
    return found


def round_together(trainings: "Sequence[Training]", joint: JointOptimizer, until: int) -> None:
    """What ``Training.round_alone`` does, for all of them at once; they have the settings of the first."""
    lead, ensemble = trainings[0], joint.ensemble
    clip, by = lead.job.trainer.clip, lead.job.trainer.clip_by
    pace, step = lead.pace(until), lead.global_step
    losses, sizes = list[Tensor](), list[Tensor]()
    while True:
        step += 1
        ensemble.zero_grad()
        found = ensemble.objective(lead.task, [training.draw() for training in trainings])
        found.losses.sum().backward()
        losses.append(found.losses.detach())
        measured = lead.measures(step)
        norms = ensemble.gradient_norms()
        if clip is not None:
            sizes.append(norms if by == "norm" else ensemble.largest_gradients())
        if measured:
            ensemble.show_gradients()
            for at, training in enumerate(trainings):
                training.before_clip(step, norms[at])
        if clip is not None:
            ensemble.clip(clip, by, norms)
        if measured:
            for at, training in enumerate(trainings):
                training.after_clip(step)
                training.log_score(found.of(at), training.current.batch)
        joint.step()
        for training in trainings:
            training.advance_schedules()
        if pace.over(step):
            break
    joint.settle()
    for at, training in enumerate(trainings):
        training.count(step, torch.stack(losses)[:, at], torch.stack(sizes)[:, at] if clip is not None else None)
