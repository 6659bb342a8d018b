"""What makes `gcorefs watch --when` take something: conditions of one process, looked at again and
again, or told by the kernel.

words         the texts that name conditions and times
looks         what each condition reads of the process
group_events  memory.high and memory.max: the kernel counts them for control groups, and wakes us
budget        how soon after the last one, and how often a day
"""
