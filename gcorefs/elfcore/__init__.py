"""The core file format.  It knows no process and no clock: the same input gives the same bytes.

columns  columns of 64-bit numbers, each handled as a whole
elf      headers of an ELF file
vma      what the kernel says of one mapping
backing  what stands behind the addresses of a mapping
vm_bits  what the bits of vm_flags mean
vma_rows  reads mappings from maps and BPF
smaps    reads the text of /proc/PID/smaps
filter   how much of a mapping the kernel would dump
program  program headers and dynamic sections, as they lie in memory
selection  parts of mappings, as ranges of addresses
memory_kinds  kinds of mappings, by which memory= takes them
patterns  include= and exclude=: names and ranges of addresses
memory_choice  all options that choose memory, together
memory_rules  memory=: how much of a mapping the core has
few_lines  the lines of maps that an estimate needs
estimate  the largest size that a core can have, without page tables
provenance  the note about how the core was made
header_store  bytes in pieces, those of many threads compressed
registers  the register sets of a thread, by kind
register_notes  the notes with these sets
notes    the notes of a core, as structures
segments  memory as program headers tell of it, and zeros only once
loads    the program headers of mappings: what becomes of each hole
layout   where every byte of the file lies
file_notes  the notes of a program or a library
core_bytes  the numbers and bytes of a core that is read, and its error
note_segments  reads the notes of any core
corefile  reads the headers and notes of any core
space    the address space of a core: what became of the bytes of each mapping
"""
