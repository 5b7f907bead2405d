// A reconnecting client: "socket" is java.net.Socket, "nio" a non-blocking SocketChannel with a Selector.
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;

public class Client {
    static void socket(int port) throws Exception {
        try (Socket socket = new Socket()) {
            socket.connect(new InetSocketAddress("127.0.0.1", port), 1000);
            Thread.sleep(200);
        }
    }

    static void nio(int port) throws Exception {
        try (Selector selector = Selector.open(); SocketChannel channel = SocketChannel.open()) {
            channel.configureBlocking(false);
            if (!channel.connect(new InetSocketAddress("127.0.0.1", port))) {
                channel.register(selector, SelectionKey.OP_CONNECT);
                selector.select(1000);
                channel.finishConnect();
            }
            Thread.sleep(200);
        }
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        while (true) {
            try {
                if (arguments[0].equals("nio")) {
                    nio(port);
                } else {
                    socket(port);
                }
            } catch (java.io.IOException refused) {
                // try again
            }
            Thread.sleep(20);
        }
    }
}
