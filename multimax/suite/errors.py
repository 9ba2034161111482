"""Ways for a run to end that are no mistake in the code; the entry points turn each into a single line."""


class UserError(Exception):
    """A mistake the user can mend: printed in one line without a traceback."""


class Diverged(UserError):
    """The loss or the gradient was not finite for too long. All processes of a run raise it after the same step."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; its state is in the checkpoint of ``step``. All processes raise it after that.

    A KeyboardInterrupt, so that nothing which goes on after a failed run, such as a sweep, goes on after this.
    ``out_of_time`` if the signal was a cluster's warning, after which the run should be queued again.
    """

    def __init__(self, step: int, out_of_time: bool = False):
        super().__init__(f"stopped at step {step}; the same command continues from there")
        self.out_of_time = out_of_time
