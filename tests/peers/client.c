/* A reconnecting client in C.
 *   threads PORT    four threads, a new socket each time
 *   again PORT      one socket, connected again and again
 *   fastopen PORT   sendto(2) with MSG_FASTOPEN instead of connect(2)
 *   mptcp PORT      a socket of IPPROTO_MPTCP
 *   deferred PORT   TCP_FASTOPEN_CONNECT: the SYN leaves with the first write
 *   mixed PORT      a UDP and a unix socket are connected in between
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static const char *mode;
static struct sockaddr_in to;

static void attempt(int fd)
{
    int one = 1;
    if (!strcmp(mode, "fastopen")) {
        sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
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
