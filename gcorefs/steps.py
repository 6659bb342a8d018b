"""The steps of a stop at which a test may hold gcorefs or let it run out of memory.

gcorefs calls `tuning.now().reach` at each of them.  That does nothing unless a test changes it.
"""

from enum import Enum, auto


class Step(Enum):
    """How far a stop is when the step is reached."""

    # The server, for one look-up or open.

    LOOKUP = auto()
    """A caller may see the process.  What its file shows has not been asked yet."""
    IDENTIFY = auto()
    """The process is known, its opener is not."""
    IDENTIFIED = auto()
    """The opener is known.  Nobody has asked whether it may stop the process."""
    CHECK = auto()
    """The kernel is about to judge the opener; the thread that asks it is still to be started."""
    BEFORE_DOOR = auto()
    """This thread has the opener's credentials.  It has not opened the memory of the process."""
    AFTER_DOOR = auto()
    """The kernel has let this thread open the memory."""
    JOINER_JUDGED = auto()
    """An opener may see a process that is stopped already, but has not joined the stop."""
    BEFORE_SIZE = auto()
    """The thread has asked for the size of an open file.  It may wait in an open(2) of its own."""
    STATUS_MADE = auto()
    """The text of the status file is made, but nobody has it.  The pid is 0."""

    # The stop, in a worker or in the command that dumps.

    MAKING_ROOM = auto()
    """The process runs.  The room for a copy of its memory is still to be made."""
    ROOM_MADE = auto()
    """The room for the copy is made."""
    STARTING = auto()
    """All early checks are done.  The tracer has no thread yet."""
    BEFORE_SEIZE = auto()
    """The next thread is about to be seized."""
    SEIZED_ONE = auto()
    """The kernel has seized it, and we have not noted it yet."""
    SEIZED_ALL = auto()
    """All known threads are seized, and run."""
    LEFT_ASLEEP = auto()
    """With stop=gentle: the threads that sleep are recorded, and none has been looked at again."""
    INTERRUPTED_ONE = auto()
    """A thread is interrupted.  It may have left its system call with an EINTR that is ours."""
    INTERRUPTED_ALL = auto()
    """All known threads are interrupted.  We have not looked whether they have stopped."""
    SIGNAL_FIRST = auto()
    """A thread stopped for a signal.  It is interrupted again, but has not got the signal yet."""
    STOPPED_ONE = auto()
    """A thread has stopped.  Its registers are not read."""
    REPAIRED_ONE = auto()
    """Its system call will be restarted.  It is not recorded yet."""
    RECORDED_ONE = auto()
    """It is recorded."""
    RECORDED_ALL = auto()
    """Every thread is recorded.  Nobody knows that but the tracer."""
    HOLDING = auto()
    """The tracer is about to sleep, while the process stands still."""
    PINNED = auto()
    """The memory of the process is open.  The opener is not judged again yet."""
    SMAPS = auto()
    """The mappings are read."""
    ASSEMBLING = auto()
    """The mappings are known.  What else the core is made of is still to be asked for."""
    ASSEMBLED = auto()
    """All that the core is made of is known.  There is no core yet."""
    TAKEN = auto()
    """There is a core.  The server does not have it yet."""
    COPYING = auto()
    """The copy of the memory is about to begin."""
    FILLED = auto()
    """All memory is copied.  The end of the header may still be missing."""
    FORKING = auto()
    """A thread of the process is about to make a child that has its memory (hold=fork)."""
    INJECTING = auto()
    """The thread blocks all signals, and its next calls are ours."""
    FORKED = auto()
    """The thread has its own registers again."""
    COPIED = auto()
    """The copy is complete.  The process still stands still."""
    DEATH_TOLD = auto()
    """The process died while it was held.  Its stop knows that, and no thread is reaped yet."""

    # Reading.

    READING = auto()
    """Memory of the process is about to be read by process_vm_readv(2)."""
    READING_CORE = auto()
    """Bytes of the core are about to be read, by a reader or ahead of it."""

    # Letting go.

    RELEASING = auto()
    """Somebody lets the process go.  The tracer does not know that yet."""
    RELEASED = auto()
    """The tracer is about to let go of all threads."""
    BEFORE_DETACH = auto()
    """The next thread is about to be detached."""
    DETACHED_ONE = auto()
    """It is detached, and we have not noted that yet."""
    DETACHED_ALL = auto()
    """Every thread is detached that had stopped in time."""
