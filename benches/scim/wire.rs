//! What the benchmark speaks with: HTTP/1.1 by hand over a connection kept open, so that the client costs little beside the servers,
//! which share its machine.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The token of every server.
pub const TOKEN: &str = "token-of-the-benchmark";

/// A request; the path is the one below the server's base.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: &'static str,
    pub path: String,
    pub body: String,
}

impl Ask {
    pub fn get(path: String) -> Self {
        Self { method: "GET", path, body: String::new() }
    }
}

/// A connection to one server, opened anew where the server closes it after an answer.
pub struct Wire {
    port: u16,
    base: &'static str,
    stream: Option<TcpStream>,
    bytes: Vec<u8>,
}

impl Wire {
    pub fn new(port: u16, base: &'static str) -> Self {
        Self { port, base, stream: None, bytes: Vec::new() }
    }

    /// Status and body. What only reads is asked again where the server closed the connection under it: some do, under load.
    pub async fn ask(&mut self, ask: &Ask) -> (u16, &[u8]) {
        let mut tries = 0;
        let (end, status) = loop {
            match self.attempt(ask).await {
                Ok(done) => break done,
                Err(error) => {
                    tries += 1;
                    assert!(ask.method == "GET" && tries < 20, "{} {}: {error}", ask.method, ask.path);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        (status, &self.bytes[end + 4..])
    }

    /// Where the head ends in what came, and the status.
    async fn attempt(&mut self, ask: &Ask) -> std::io::Result<(usize, u16)> {
        let Ask { method, path, body } = ask;
        let (base, port, length) = (self.base, self.port, body.len());
        let request = format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/scim+json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            let opened = TcpStream::connect(("127.0.0.1", self.port)).await?;
            opened.set_nodelay(true)?;
            opened
        };
        stream.write_all(request.as_bytes()).await?;
        self.bytes.clear();
        let (mut head, mut whole) = (None, usize::MAX);
        while self.bytes.len() < whole {
            if stream.read_buf(&mut self.bytes).await? == 0 {
                break;
            }
            if head.is_none()
                && let Some(end) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n")
            {
                let text = String::from_utf8_lossy(&self.bytes[..end]).to_ascii_lowercase();
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let stays = text.starts_with("http/1.1") && !text.contains("connection: close");
                whole = length.map_or(if text.contains(" 204 ") { end + 4 } else { usize::MAX }, |length| {
                    end + 4 + length.trim().parse::<usize>().expect("a length")
                });
                head = Some((end, stays, text[9..12].parse::<u16>().expect("a status")));
            }
        }
        let Some((end, stays, status)) = head else { return Err(std::io::ErrorKind::UnexpectedEof.into()) };
        self.stream = stays.then_some(stream);
        Ok((end, status))
    }
}

/// A server under load.
pub struct Server {
    pub name: &'static str,
    pub port: u16,
    pub base: &'static str,
    pub process: std::process::Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a run of requests came to.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub per_second: f64,
    /// Processor time of the server, in milliseconds.
    pub cpu_ms: f64,
}

impl Server {
    pub fn wire(&self) -> Wire {
        Wire::new(self.port, self.base)
    }

    /// Until it answers.
    pub async fn is_up(&self) {
        let until = Instant::now() + Duration::from_mins(1);
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < until, "{} does not start", self.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (status, said) = {
            let mut wire = self.wire();
            let (status, said) = wire.ask(&Ask::get("/Users?count=1".to_owned())).await;
            (status, String::from_utf8_lossy(said).into_owned())
        };
        assert_eq!(status, 200, "{}: {said}", self.name);
    }

    /// Processor time since its start, in milliseconds.
    pub fn cpu_ms(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        // A hundred ticks a second on every Linux there is.
        ticks * 10.0
    }

    /// Resident memory now and at most, in MiB.
    pub fn resident_mib(&self) -> (f64, f64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// Sends the requests `make` gives for 0, 1, 2…, over so many connections, until all `count` are done or `limit` has passed. `see` is
    /// shown each answer.
    pub async fn load(
        &self,
        (connections, count, limit): (usize, usize, Duration),
        make: &dyn Fn(usize) -> Ask,
        see: &dyn Fn(usize, u16, &[u8]),
    ) -> Figures {
        let (next, done) = (std::cell::Cell::new(0), std::cell::Cell::new(0_u32));
        let (cpu, began) = (self.cpu_ms(), Instant::now());
        let one = async || {
            let mut wire = self.wire();
            while next.get() < count && began.elapsed() < limit {
                let number = next.replace(next.get() + 1);
                let ask = make(number);
                let (status, said) = wire.ask(&ask).await;
                assert!((200..300).contains(&status), "{} {}: {}", self.name, ask.path, String::from_utf8_lossy(said));
                see(number, status, said);
                done.set(done.get() + 1);
            }
        };
        futures_util::future::join_all((0..connections).map(|_| one())).await;
        let done = f64::from(done.get());
        Figures { per_second: done / began.elapsed().as_secs_f64(), cpu_ms: (self.cpu_ms() - cpu) / done }
    }
}
