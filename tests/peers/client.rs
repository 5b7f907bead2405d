// A reconnecting client with the standard library's TcpStream.
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let _ = stream.read(&mut [0; 64]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
