// One side of a pair: for each line on stdin, time a block of net.Dial to a listener of its own, and print seconds.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"sort"
	"time"
)

const block = 200

func main() {
	address := "127.0.0.1:" + os.Args[1]
	listener, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	accepted := make(chan net.Conn, block)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- connection
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		spent := make([]float64, block)
		for i := range spent {
			start := time.Now()
			connection, err := net.Dial("tcp", address)
			spent[i] = time.Since(start).Seconds()
			if err != nil {
				panic(err)
			}
			connection.(*net.TCPConn).SetLinger(0)
			connection.Close()
			(<-accepted).Close()
		}
		sort.Float64s(spent)
		fmt.Println(spent[block/2])
	}
}
