# A 32-bit process with an account of its own: 200 sleeps of a millisecond, of which none may
# end early or with an error; its exit status is 0 if none did and 1 if one did.
	.globl _start
_start:
	movl	$200, %esi
again:
	movl	$162, %eax		# nanosleep
	movl	$request, %ebx
	xorl	%ecx, %ecx
	int	$0x80
	testl	%eax, %eax
	jnz	failed
	decl	%esi
	jnz	again
	xorl	%ebx, %ebx
	jmp	leave
failed:
	movl	$1, %ebx
leave:
	movl	$1, %eax		# exit
	int	$0x80

	.data
request:
	.long	0, 1000000
