# A 32-bit process that sleeps in pause(2) for ever: assembled and linked without any library.
	.globl _start
_start:
	movl	$29, %eax
	int	$0x80
	jmp	_start
