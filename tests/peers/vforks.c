// Connects in a child of vfork(2), which then executes a client: ./vforks PORT COUNT CLIENT...
// The child has its parent's memory until it executes the client, and the client connects under the same pid.
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    struct linger reset = {1, 0};
    int count = atoi(argv[2]);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    pid_t child = vfork();
    if (child == 0) {
        for (int i = 0; i < count; i++) {
            int sock = socket(AF_INET, SOCK_STREAM, 0);
            setsockopt(sock, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            connect(sock, (struct sockaddr *)&to, sizeof to);
            close(sock);
        }
        execvp(argv[3], argv + 3);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
