"""The core file format: knows no process and no clock; same input, same bytes.

elf      headers of an ELF file
vma      what /proc/PID/smaps says of one mapping
filter   how much of a mapping the kernel would dump
provenance  the note that says how the core was had
header_store  bytes in pieces, those of many threads compressed
registers  the register sets of a thread, by kind
register_notes  the notes of them
notes    the notes of a core, as structures
segments  memory as program headers tell of it, and zeros only once
layout   where every byte of the file lies
"""
