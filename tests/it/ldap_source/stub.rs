//! An LDAP server that says what a test wants said: parts of members as Active Directory hands them out, garbage, pages without end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A request as the script sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: u8,
    /// Application tag: 0x60 bind, 0x63 search, 0x42 unbind.
    pub operation: u8,
    /// Of a search.
    pub base: String,
    pub attributes: Vec<String>,
    /// The whole message.
    pub bytes: Vec<u8>,
}

impl Request {
    /// Whether the request's bytes, its filter mostly, hold this text.
    pub fn mentions(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

/// What is peculiar about a server beside its answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// What binds are answered with; 0: they succeed.
    pub bind_code: u8,
    /// Waited before every message of an answer.
    pub pause: Duration,
}

/// At the end of an answer: the server closes the connection there.
pub const HANG_UP: &[u8] = b"[the line is dead]";

/// A running stub.
#[derive(Debug)]
pub struct Stub {
    pub uri: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    /// Answers every request but binds with what `script` returns; binds succeed.
    pub async fn start(script: impl FnMut(&Request) -> Vec<u8> + Send + 'static) -> Self {
        Self::start_with(Manner::default(), script).await
    }

    /// The same with peculiarities.
    pub async fn start_with(manner: Manner, mut script: impl FnMut(&Request) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("ldap://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = Vec::new();
                while let Some(request) = next_request(&mut stream, &mut buffer).await {
                    let answer = match request.operation {
                        0x60 => message(request.id, 0x61, &result(manner.bind_code)),
                        0x42 => break,
                        _ => script(&request),
                    };
                    seen.lock().unwrap().push(request);
                    if send(&mut stream, &answer, manner.pause).await.is_err() {
                        break;
                    }
                }
            }
        });
        Self { uri, requests }
    }

    /// Attributes asked for with this base, request by request.
    pub fn asked_of(&self, base: &str) -> Vec<Vec<String>> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.base == base).map(|request| request.attributes.clone()).collect()
    }

    /// How many searches were sent.
    pub fn searches(&self) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.operation == 0x63).count()
    }
}

/// Sends an answer, message by message if there are to be pauses; fails where the connection ends.
async fn send(stream: &mut tokio::net::TcpStream, answer: &[u8], pause: Duration) -> std::io::Result<()> {
    let (mut rest, hangs_up) = match answer.strip_suffix(HANG_UP) {
        Some(rest) => (rest, true),
        None => (answer, false),
    };
    while !pause.is_zero()
        && let Some((_, _, length)) = element(rest)
    {
        tokio::time::sleep(pause).await;
        stream.write_all(&rest[..length]).await?;
        rest = &rest[length..];
    }
    stream.write_all(rest).await?;
    if hangs_up { Err(std::io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
}

async fn next_request(stream: &mut tokio::net::TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some((0x30, content, used)) = element(buffer) {
            let request = request(content, &buffer[..used]);
            buffer.drain(..used);
            return Some(request);
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(length) if length > 0 => buffer.extend_from_slice(&chunk[..length]),
            Ok(_) | Err(_) => return None,
        }
    }
}

fn request(content: &[u8], whole: &[u8]) -> Request {
    let (_, id, used) = element(content).unwrap();
    let (operation, body, _) = element(&content[used..]).unwrap();
    let mut request = Request {
        id: *id.last().unwrap(),
        operation,
        base: String::new(),
        attributes: Vec::new(),
        bytes: whole.to_vec(),
    };
    if operation == 0x63 {
        let parts = elements(body);
        request.base = String::from_utf8(parts[0].to_vec()).unwrap();
        request.attributes = elements(parts[7]).iter().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    }
    request
}

/// Tag, content and length in all of the first element, if it is all there.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (tag, first) = (*bytes.first()?, usize::from(*bytes.get(1)?));
    let (length, head) = if first < 0x80 {
        (first, 2)
    } else {
        let digits = bytes.get(2..2 + (first - 0x80))?;
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), 2 + digits.len())
    };
    Some((tag, bytes.get(head..head + length)?, head + length))
}

fn elements(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((_, content, used)) = element(bytes) {
        found.push(content);
        bytes = &bytes[used..];
    }
    found
}

/// One BER element.
pub fn ber(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84][..], &length, content].concat()
}

fn message(id: u8, operation: u8, body: &[u8]) -> Vec<u8> {
    ber(0x30, &[ber(2, &[id]), ber(operation, body)].concat())
}

fn result(code: u8) -> Vec<u8> {
    [ber(10, &[code]), ber(4, b""), ber(4, b"")].concat()
}

/// A search result entry.
pub fn entry(request: &Request, dn: &str, attributes: &[(&str, &[&str])]) -> Vec<u8> {
    let attributes: Vec<u8> = attributes
        .iter()
        .flat_map(|(name, values)| {
            let values: Vec<u8> = values.iter().flat_map(|value| ber(4, value.as_bytes())).collect();
            ber(0x30, &[ber(4, name.as_bytes()), ber(0x31, &values)].concat())
        })
        .collect();
    message(request.id, 0x64, &[ber(4, dn.as_bytes()), ber(0x30, &attributes)].concat())
}

/// The end of a search, or of one page if there is a cookie.
pub fn done(request: &Request, code: u8, cookie: &str) -> Vec<u8> {
    let paging = ber(0x30, &[ber(2, &[0]), ber(4, cookie.as_bytes())].concat());
    let control = ber(0x30, &[ber(4, b"1.2.840.113556.1.4.319"), ber(4, &paging)].concat());
    let parts = [ber(2, &[request.id]), ber(0x65, &result(code)), ber(0xa0, &control)];
    ber(0x30, &parts.concat())
}

/// A continuation reference.
pub fn reference(request: &Request, uri: &str) -> Vec<u8> {
    message(request.id, 0x73, &ber(4, uri.as_bytes()))
}

/// A search result entry whose content is not one.
pub fn garbled_entry(request: &Request) -> Vec<u8> {
    message(request.id, 0x64, &ber(2, &[7]))
}

/// The base entry if the base alone is asked for.
pub fn base_or(request: &Request, base: &str, other: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    if request.base == base
        && request.mentions("objectClass")
        && !request.mentions("objectClass=")
        && is_presence_only(request)
    {
        return [entry(request, base, &[("objectClass", &["domain"]), ("entryUUID", &["base"])]), done(request, 0, "")]
            .concat();
    }
    other()
}

/// Scope base object: the second part of a search request is an enumerated zero.
fn is_presence_only(request: &Request) -> bool {
    let (_, content, _) = element(&request.bytes).unwrap();
    let (_, _, used) = element(content).unwrap();
    let (_, body, _) = element(&content[used..]).unwrap();
    elements(body)[1] == [0]
}
