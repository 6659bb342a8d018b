"""What debuggers that are installed say of a core: the stacks of its threads.

frames    one frame, and the stacks of one thread
fold      equal stacks, counted
program   a reader that is installed, run with a time limit
eu_stack  native frames, from elfutils
gdb       native frames, from gdb
pystack   the frames of Python
delve     the stacks of goroutines
jhsdb     the frames of Java
languages  which of these a process needs
files     the files of a process for a reader, whatever has become of their paths
process_stacks  the stacks of one process, from whatever is installed

Each module of a reader has a `parse`, which knows no process: the output of a reader is text of a
program that we did not write, about a process that we do not trust.  A line that is not understood
is left out.
"""
