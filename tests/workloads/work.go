// A Go program at work: sockets with deadlines, channels, timers, garbage, checksums, and
// 64 GiB of reserved memory with few written pages.
// First line: {"pid": P}.  Answers each line on standard input with {"work": N, "errors": [...]}.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	threads  = 8
	reserved = 64 << 30
	pages    = 1000
	step     = reserved / pages &^ 4095
)

var (
	work   int64
	lock   sync.Mutex
	failed = []string{}
)

func fail(what string, err error) {
	lock.Lock()
	defer lock.Unlock()
	failed = append(failed, fmt.Sprint(what, ": ", err))
}

func start(what string, turn func() error) {
	go func() {
		for {
			if err := turn(); err != nil {
				fail(what, err)
				return
			}
			atomic.AddInt64(&work, 1)
		}
	}()
}

func check(holds bool, what string) error {
	if holds {
		return nil
	}
	return errors.New(what)
}

func sockets() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return err
	}
	far, err := listener.Accept()
	if err != nil {
		return err
	}
	block := make([]byte, 50_000)
	rand.New(rand.NewSource(1)).Read(block)
	start("server", func() error {
		got := make([]byte, len(block))
		if _, err := io.ReadFull(far, got); err != nil {
			return err
		}
		_, err := far.Write(got)
		return err
	})
	start("client", func() error {
		near.SetDeadline(time.Now().Add(time.Minute))
		if _, err := near.Write(block); err != nil {
			return err
		}
		got := make([]byte, len(block))
		if _, err := io.ReadFull(near, got); err != nil {
			return err
		}
		return check(bytes.Equal(got, block), "another block")
	})
	return nil
}

func arena() error {
	memory, err := syscall.Mmap(-1, 0, reserved, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		return err
	}
	// Otherwise each written page would be one of 2 MiB (MADV_NOHUGEPAGE).
	if err := syscall.Madvise(memory, 15); err != nil {
		return err
	}
	var round uint64
	start("arena", func() error {
		for page := 0; page < pages; page++ {
			word := memory[page*step:]
			if found := binary.LittleEndian.Uint64(word); found != round {
				return fmt.Errorf("page %d: %d in round %d", page, found, round)
			}
			binary.LittleEndian.PutUint64(word, round+1)
		}
		round++
		return nil
	})
	return nil
}

func channels() {
	there, back := make(chan int), make(chan int)
	start("echo", func() error {
		back <- <-there
		return nil
	})
	number := 0
	start("caller", func() error {
		number++
		there <- number
		limit := time.NewTimer(time.Minute)
		defer limit.Stop()
		select {
		case got := <-back:
			return check(got == number, "another number")
		case <-limit.C:
			return errors.New("nothing came")
		}
	})
}

func main() {
	runtime.GOMAXPROCS(threads)
	if err := sockets(); err != nil {
		fail("sockets", err)
	}
	if err := arena(); err != nil {
		fail("arena", err)
	}
	channels()
	data := make([]byte, 1<<16)
	rand.New(rand.NewSource(2)).Read(data)
	sum := crc32.ChecksumIEEE(data)
	start("checksum", func() error {
		kept := append([]byte(nil), data...) // soon garbage
		return check(crc32.ChecksumIEEE(kept) == sum, "another sum")
	})
	start("timer", func() error {
		begin := time.Now()
		time.Sleep(time.Millisecond)
		return check(time.Since(begin) >= time.Millisecond, "woken early")
	})
	start("collector", func() error {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
		return nil
	})
	fmt.Printf("{\"pid\": %d}\n", os.Getpid())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		lock.Lock()
		report, _ := json.Marshal(map[string]any{"work": atomic.LoadInt64(&work), "errors": failed})
		lock.Unlock()
		fmt.Println(string(report))
	}
}
