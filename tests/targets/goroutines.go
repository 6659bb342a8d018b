// goroutines N
//
// N goroutines parked at the end of a known chain of calls, each with its own values in the
// frames, and another one that is locked to its thread and sleeps in read(2).
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

type goroutine struct {
	ID       int               `json:"id"`
	Tid      int               `json:"tid"` // 0: of no thread
	Canaries map[string]uint64 `json:"canaries"`
}

type memory struct {
	Address string   `json:"address"`
	Words   []uint64 `json:"words"`
}

type truth struct {
	Pid        int         `json:"pid"`
	Functions  []string    `json:"functions"`
	Goroutines []goroutine `json:"goroutines"`
	Memory     memory      `json:"memory"`
}

var (
	told   = make(chan goroutine)
	parked = make(chan int)
	pipe   [2]int
)

func canary(n int) uint64 {
	return 0x9e3779b97f4a7c15 * uint64(n+1)
}

// The number in the first line of a goroutine's own stack: "goroutine 18 [running]:".
func ownID() (id int) {
	text := make([]byte, 64)
	fmt.Sscanf(string(text[:runtime.Stack(text, false)]), "goroutine %d ", &id)
	return id
}

func inner(self goroutine, number int, locked bool) uint64 {
	innerCanary := canary(3 * number)
	self.Canaries["inner"] = innerCanary
	told <- self
	if locked {
		syscall.Read(pipe[0], make([]byte, 1))
	} else {
		<-parked
	}
	return innerCanary
}

func middle(self goroutine, number int, locked bool) uint64 {
	middleCanary := canary(3*number + 1)
	self.Canaries["middle"] = middleCanary
	return inner(self, number, locked) + middleCanary
}

func outer(number int, locked bool) uint64 {
	outerCanary := canary(3*number + 2)
	self := goroutine{ID: ownID(), Canaries: map[string]uint64{"outer": outerCanary}}
	if locked {
		runtime.LockOSThread()
		self.Tid = syscall.Gettid()
	}
	return middle(self, number, locked) + outerCanary
}

func main() {
	// A hung test must not leave this process behind.
	syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0)
	count, _ := strconv.Atoi(os.Args[1])
	if err := syscall.Pipe(pipe[:]); err != nil {
		panic(err)
	}
	words := make([]uint64, 64)
	for i := range words {
		words[i] = canary(1000 + i)
	}
	all := truth{
		Pid:       os.Getpid(),
		Functions: []string{"inner", "middle", "outer"},
		Memory:    memory{fmt.Sprintf("%p", words), words},
	}
	for number := 0; number <= count; number++ {
		go outer(number, number == count)
		all.Goroutines = append(all.Goroutines, <-told)
	}
	json.NewEncoder(os.Stdout).Encode(all)
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
	}
	runtime.KeepAlive(words)
}
