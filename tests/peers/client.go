// A reconnecting client. "dial" is net.Dial, which notices self-connects and tries again by itself;
// "raw" is connect(2) without anything around it; "bound" binds to any port of 127.0.0.1 first.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

func raw(port int) bool {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		panic(err)
	}
	defer syscall.Close(fd)
	if syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}) != nil {
		return false
	}
	time.Sleep(200 * time.Millisecond)
	return true
}

func dial(dialer net.Dialer, port int) bool {
	connection, err := dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(200 * time.Millisecond))
	io.Copy(io.Discard, connection)
	return true
}

func main() {
	port, _ := strconv.Atoi(os.Args[2])
	for {
		switch os.Args[1] {
		case "raw":
			raw(port)
		case "dial":
			dial(net.Dialer{}, port)
		case "bound":
			dial(net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}, port)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
