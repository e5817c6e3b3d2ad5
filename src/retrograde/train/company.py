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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from retrograde.core.ensemble import Ensemble, refusal
from retrograde.core.joint_optimizer import JointOptimizer, NotElementwise
from retrograde.train.devices import now
from retrograde.train.interruption import Interrupted, Interruption
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
        if self.company.why_not is not None:
            return False
        self.state, self.until = WAITS, until
        self.company.go_on(self)
        if self.failure is not None:
            raise self.failure
        return self.company.why_not is None


class Company:
    """The runs; ``say`` is told, in one line, why their steps are not computed together.

    With ``if_faster`` that is also where a trial takes longer than one after the other does.
    """

    def __init__(self, size: int, say: Callable[[str], None], if_faster: bool = False) -> None:
        self.say = say
        self.if_faster = if_faster
        self.turn = threading.Condition()
        self.at: Member | None = None
        self.members = [Member(self, place) for place in range(size)]
        self.why_not: str | None = None
        self.gathered: list[Training] = []
        self.joint: JointOptimizer | None = None

    def carry_out(self, runs: "Sequence[Callable[[Member], None]]") -> list[BaseException | None]:
        """All of them, to their ends; what each raised, in their order. Signals reach those that are stepping."""
        raised: list[BaseException | None] = [None for _ in runs]

        def work(member: Member, run: Callable[[Member], None]) -> None:
            with self.turn:
                self.turn.wait_for(lambda: self.at is member)
            self._begin(member)
            try:
                if member.interruption.asked is not None:
                    raise Interrupted(member.interruption.asked)
                run(member)
            except BaseException as error:  # the others go on; whoever has asked for this run hears of it
                raised[member.place] = error
            member.state = ENDED
            self.go_on(member)

        threads = [
            threading.Thread(target=work, args=pair, name=f"run {pair[0].place + 1}", daemon=True)
            for pair in zip(self.members, runs, strict=True)
        ]
        before = torch.get_rng_state(), torch.get_default_dtype()
        interruption = Interruption()
        with interruption.heeded():
            interruption.stepping = True  # who is asked to end is asked once, and a second time ends at once
            for thread in threads:
                thread.start()
            with self.turn:
                self.at = self.members[0]
                self.turn.notify_all()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    if interruption.asked is not None:
                        for member in self.members:
                            member.interruption.asked = interruption.asked
        torch.set_rng_state(before[0])
        torch.set_default_dtype(before[1])
        return raised

    def go_on(self, member: Member) -> None:
        """Give the turn to who has work of its own, or compute a round where nobody has; and wait for the next turn."""
        self._pause(member)
        chosen = self._next()
        while chosen is None and any(one.state == WAITS for one in self.members):
            self._round()
            chosen = self._next()
        with self.turn:
            self.at = chosen
            self.turn.notify_all()
            if member.state == ENDED:
                return
            self.turn.wait_for(lambda: self.at is member)
        self._begin(member)

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
        now = {one: training for one, training in waiting.items() if training.global_step == lowest}
        begun = time.perf_counter()
        torch.set_default_dtype(next(iter(now)).dtype)  # Lightning sets it for a step in double precision
        try:
            self._take(list(now.values()), min(one.until for one in now))
        except BaseException as error:
            for one in now:
                one.failure = error if len(now) == 1 else RuntimeError(f"a round of {len(now)} runs together failed")
                one.failure.__cause__ = None if len(now) == 1 else error
        for one in now if self.why_not is None else waiting:
            one.state = RUNS
            one.spent += (time.perf_counter() - begun) / len(now)

    def _take(self, trainings: "list[Training]", until: int) -> None:
        """A round of these, unless it turns out that none is to be taken together."""
        if self.joint is None and len(trainings) > 1:
            self.why_not = reason(trainings) or (slower(trainings) if self.if_faster else None)
            if self.why_not is not None:
                self.say(f"these runs train one after the other: {self.why_not}")
        if self.why_not is not None:
            return
        if len(trainings) == 1:
            self._part()
            trainings[0].round_alone(until)
        else:
            round_together(trainings, self._gathered(trainings), until)

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


def reason(trainings: "Sequence[Training]") -> str | None:
    """Why the steps of these cannot be computed together, in one line; None where they can."""
    first = trainings[0]
    if first.job.trainer.compile:
        return "trainer.compile makes of one model's objective what knows of no seeds"
    said = refusal(
        [training.model for training in trainings],
        first.task,
        autocast=isinstance(first.trainer.precision_plugin, MixedPrecision),
        ranks=first.trainer.world_size,
        regularized=first.job.regularizer is not None,
    )
    if said is not None:
        return said
    try:
        for training in trainings:
            JointOptimizer(Ensemble([training.model]), [training.optimizer]).ensemble.release()
    except NotElementwise as error:
        return str(error)
    return None


def slower(trainings: "Sequence[Training]") -> str | None:
    """What a step of all together takes, where that is no less than in turn; by copies, on another stream's batches."""
    lead = trainings[0]
    copies = [copy.deepcopy(training.model) for training in trainings]
    stream = generator("trial", lead.job.seed, lead.device)
    batches = [lead.task.sample(lead.job.batch_size, stream).to(*lead.beside) for _ in copies]
    alone, joint = copy.deepcopy(lead.model), Ensemble(copies)

    def one() -> None:
        alone.objective(lead.task, batches[0])[0].mean().backward()

    def all_of_them() -> None:
        joint.objective(lead.task, batches).losses.sum().backward()

    taken: dict[Callable[[], None], list[float]] = {one: [], all_of_them: []}
    for _ in range(TRIALS):
        for step, seconds in taken.items():
            begun = now(lead.device)
            step()
            seconds.append(now(lead.device) - begun)
    in_turn, together = len(copies) * min(taken[one]), min(taken[all_of_them])
    if together <= WORTHWHILE * in_turn:
        return None
    return f"a step of all {len(copies)} takes {1e3 * together:.3g} ms together, and {1e3 * in_turn:.3g} ms in turn"


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
                training.log_score(found.of(at), training.drawn)
        joint.step()
        for training in trainings:
            training.advance_schedules()
        if pace.over(step):
            break
    joint.settle()
    for at, training in enumerate(trainings):
        training.count(step, torch.stack(losses)[:, at], torch.stack(sizes)[:, at] if clip is not None else None)
