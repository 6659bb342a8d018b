"""A bundle: the core of a process, with all that a debugger needs to open it on another machine.

mapped_files  the files that a process has mapped, kept open
link_names    the names under which the dynamic linker knows them
facts         what /proc tells of the process
places        where each file lies in the bundle
content       the bytes of a file, whose server may not answer
contents      all of a bundle but its core
manifest      what the bundle has, and what it lacks
scripts       the scripts that open it
tarball       a tar file, written to a sink
"""
