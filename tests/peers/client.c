/* A reconnecting client in C.
 *   threads PORT    four threads, a new socket each time
 *   again PORT      one socket, connected again and again
 *   fastopen PORT   sendto(2) with MSG_FASTOPEN instead of connect(2)
 *   message PORT    the same with sendmsg(2)
 *   messages PORT   the same with sendmmsg(2)
 *   mptcp PORT      a socket of IPPROTO_MPTCP
 *   deferred PORT   TCP_FASTOPEN_CONNECT: the SYN leaves with the first write
 *   mixed PORT      a UDP and a unix socket are connected in between
 *   uring PORT      io_uring's IORING_OP_CONNECT, no connect(2)
 *   int80 PORT      connect(2) as 32-bit programs call it (x86_64 with IA32 emulation)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static const char *mode;
static struct sockaddr_in to;

/* One submission, one completion; every ring is made anew. */
static int uring_connect(int fd)
{
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    int ring = syscall(SYS_io_uring_setup, 1, &params);
    if (ring < 0)
        exit(77); /* switched off here */
    char *queue = mmap(NULL, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED,
                       ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry = mmap(NULL, sizeof *entry, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    char *done = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
                      PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    memset(entry, 0, sizeof *entry);
    entry->opcode = IORING_OP_CONNECT;
    entry->fd = fd;
    entry->addr = (unsigned long)&to;
    entry->off = sizeof to;
    ((unsigned *)(queue + params.sq_off.array))[0] = 0;
    *(unsigned *)(queue + params.sq_off.tail) += 1;
    syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    int result = ((struct io_uring_cqe *)(done + params.cq_off.cqes))->res;
    close(ring);
    return result;
}

static int int80_connect(int fd)
{
#ifdef __x86_64__
    static struct sockaddr_in *low;
    long result = 362; /* connect, arch/x86/entry/syscalls/syscall_32.tbl */
    if (!low)
        low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    *low = to;
    __asm__ volatile("int $0x80" : "+a"(result) : "b"((long)fd), "c"(low), "d"((long)sizeof *low)
                     : "memory", "r8", "r9", "r10", "r11");
    if ((int)result == -38)
        exit(77);
    return (int)result;
#else
    exit(77);
#endif
}

static void attempt(int fd)
{
    int one = 1;
    if (!strcmp(mode, "uring") || !strcmp(mode, "int80")) {
        if ((*mode == 'u' ? uring_connect : int80_connect)(fd) == 0)
            usleep(200000);
        return;
    }
    if (!strcmp(mode, "fastopen")) {
        sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
        return;
    }
    if (!strncmp(mode, "message", 7)) {
        struct iovec byte = {"x", 1};
        struct mmsghdr message = {.msg_hdr = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &byte, .msg_iovlen = 1}};
        if (mode[7])
            sendmmsg(fd, &message, 1, MSG_FASTOPEN | MSG_NOSIGNAL);
        else
            sendmsg(fd, &message.msg_hdr, MSG_FASTOPEN | MSG_NOSIGNAL);
        return;
    }
    if (!strcmp(mode, "deferred"))
        setsockopt(fd, IPPROTO_TCP, 30, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        return;
    if (!strcmp(mode, "deferred"))
        send(fd, "x", 1, MSG_NOSIGNAL);
    usleep(200000);
}

static void *reconnect(void *unused)
{
    int once = !strcmp(mode, "again");
    int fd = -1;
    for (;;) {
        if (fd < 0)
            fd = socket(AF_INET, SOCK_STREAM, !strcmp(mode, "mptcp") ? IPPROTO_MPTCP : 0);
        if (!strcmp(mode, "mixed")) {
            struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/nonexistent/socket"};
            int datagram = socket(AF_INET, SOCK_DGRAM, 0), local = socket(AF_UNIX, SOCK_STREAM, 0);
            connect(datagram, (struct sockaddr *)&to, sizeof to);
            connect(local, (struct sockaddr *)&name, sizeof name);
            close(datagram);
            close(local);
        }
        attempt(fd);
        if (!once) {
            close(fd);
            fd = -1;
        }
        usleep(20000);
    }
    return unused;
}

int main(int count, char **arguments)
{
    int threads = 4;
    if (count != 3)
        return 2;
    mode = arguments[1];
    to.sin_family = AF_INET;
    to.sin_port = htons(atoi(arguments[2]));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strcmp(mode, "threads"))
        threads = 1;
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, reconnect, NULL);
    }
    reconnect(NULL);
}
