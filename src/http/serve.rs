//! How every listener of usher serves (S-91): HTTP/1.1 within bounds of time and number, so that nobody who merely opens connections
//! keeps others out. It knows no route and no credential.
//!
//! A client that does not finish its request's head, or its body, is cut off; a connection lives for a bounded time; beyond a number
//! of connections further ones wait in the kernel's queue until one has ended.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::map_request;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use hyper::body::Body as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// For the head of a request, from the connection's opening or the answer before: a kept connection may be idle as long.
    head: Duration,
    /// For the body of a request, as a whole.
    body: Duration,
    /// For a connection, however well it behaves: it ends whoever reads an answer byte by byte.
    life: Duration,
    /// For open requests when usher stops.
    drain: Duration,
    /// Connections at a time.
    connections: usize,
}

/// A homeserver, a SCIM client, a probe and a scraper hold a handful of connections; 20 MiB in a minute is a slow line.
const BOUNDS: Bounds = Bounds {
    head: Duration::from_secs(15),
    body: Duration::from_mins(1),
    life: Duration::from_mins(10),
    drain: Duration::from_secs(3),
    connections: 256,
};

/// How long nothing is accepted when the process has no file descriptor left for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

/// Serves until `stop`; open requests then get a few seconds to end. A body that does not come in time is an error to whoever reads it.
///
/// # Errors
/// When the listener itself is no longer one; what breaks one connection is that connection's affair.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    serve_within(BOUNDS, listener, router, stop).await
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let limit = bounds.body;
    let in_time = map_request(move |request: Request| async move { request.map(|body| hurried(body, limit)) });
    let router = router.layer(in_time);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept(), if open.len() < bounds.connections => match accepted {
                Ok((stream, _)) => {
                    open.spawn(converse(bounds, stream, router.clone(), stop.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if is_of_the_listener(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = sleep(EXHAUSTED_PAUSE) => {}
                    }
                }
            },
        }
    }
    drop(listener);
    let ended = async { while open.join_next().await.is_some() {} };
    // Those that do not end are dropped with the set.
    let _ = timeout(bounds.drain, ended).await;
    Ok(())
}

/// One connection, from its opening to its end.
async fn converse(bounds: Bounds, stream: TcpStream, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let grace = tokio::select! {
        ended = connection.as_mut() => return told(ended),
        () = stop.cancelled() => bounds.drain,
        () = sleep(bounds.life) => bounds.body,
    };
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(grace, connection).await {
        told(ended);
    }
}

fn told(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The same body, which breaks off with an error once it has taken too long.
fn hurried(body: Body, limit: Duration) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let latest = Instant::now() + limit;
    Body::from_stream(unfold(Some(body.into_data_stream()), move |rest| async move {
        let mut rest = rest?;
        match timeout_at(latest, rest.next()).await {
            Ok(piece) => Some((piece?, Some(rest))),
            Err(late) => Some((Err(axum::Error::new(late)), None)),
        }
    }))
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokenBody {
    /// Than its reader takes.
    TooLarge,
    TooLate,
    CutOff,
}

/// What is behind the error of a body that was not read to its end.
pub(crate) fn broken_body(error: &(dyn std::error::Error + 'static)) -> BrokenBody {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        if cause.is::<http_body_util::LengthLimitError>() {
            Some(BrokenBody::TooLarge)
        } else {
            cause.is::<tokio::time::error::Elapsed>().then_some(BrokenBody::TooLate)
        }
    };
    causes.find_map(kind).unwrap_or(BrokenBody::CutOff)
}

/// Whether only the connection that was to be accepted broke.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Whether nothing will ever be accepted again: no listening socket is behind the descriptor (EBADF, EINVAL, ENOTSOCK).
fn is_of_the_listener(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(9 | 22 | 88))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::to_bytes;
    use axum::http::StatusCode;
    use axum::routing::{get, put};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_mins(10);
    const PATIENT: Bounds = Bounds { head: LONG, body: LONG, life: LONG, drain: LONG, connections: 64 };
    const ASKED: &[u8] = b"GET /there HTTP/1.1\r\nhost: usher\r\nconnection: close\r\n\r\n";

    struct Listening {
        address: SocketAddr,
        stop: CancellationToken,
        served: JoinHandle<io::Result<()>>,
    }

    impl Listening {
        async fn within(bounds: Bounds) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new()
                .route("/there", get(async || "there\n"))
                .route("/never", get(async || std::future::pending::<&str>().await))
                .route(
                    "/endless",
                    get(async || {
                        Body::from_stream(unfold((), async |()| Some((Ok::<_, io::Error>(vec![b'x'; 4096]), ()))))
                    }),
                )
                .route(
                    "/take",
                    put(async |body: Body| match to_bytes(body, 100).await.map_err(|error| broken_body(&error)) {
                        Ok(_) => StatusCode::OK,
                        Err(BrokenBody::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
                        Err(BrokenBody::TooLate) => StatusCode::REQUEST_TIMEOUT,
                        Err(BrokenBody::CutOff) => StatusCode::BAD_REQUEST,
                    }),
                );
            let stop = CancellationToken::new();
            let served = tokio::spawn(serve_within(bounds, listener, router, stop.clone()));
            Self { address, stop, served }
        }

        async fn begin(&self, bytes: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream
        }

        async fn is_served(&self) -> bool {
            rest(self.begin(ASKED).await).await.starts_with("HTTP/1.1 200 OK")
        }
    }

    impl Drop for Listening {
        fn drop(&mut self) {
            self.served.abort();
        }
    }

    /// What comes until the connection is closed.
    async fn rest(mut stream: TcpStream) -> String {
        let mut read = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut read).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    #[tokio::test]
    async fn whoever_does_not_finish_the_head_is_cut_off_and_others_are_served_meanwhile() {
        let listening = Listening::within(Bounds { head: SHORT, ..PATIENT }).await;
        let mut slow = Vec::new();
        for half in [&b""[..], b"GET", b"GET /there HTTP/1.1\r\nhost: us", b"GET /there HTTP/1.1\r\nhost: usher\r\n"] {
            slow.push(listening.begin(half).await);
        }
        assert!(listening.is_served().await);
        for stream in slow {
            let answer = rest(stream).await;
            assert!(!answer.contains("there\n"), "{answer}");
        }
        assert!(listening.is_served().await);
    }

    #[tokio::test]
    async fn dripping_bytes_does_not_prolong_the_head() {
        let listening = Listening::within(Bounds { head: SHORT, ..PATIENT }).await;
        let (mut reader, mut writer) = listening.begin(b"GET /there HTTP/1.1\r\n").await.into_split();
        let dripping = tokio::spawn(async move {
            while writer.write_all(b"x-more: 1\r\n").await.is_ok() {
                sleep(SHORT / 10).await;
            }
        });
        let mut read = Vec::new();
        let _ = reader.read_to_end(&mut read).await;
        dripping.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_an_error_to_its_reader() {
        let listening = Listening::within(Bounds { body: SHORT, ..PATIENT }).await;
        let head = b"PUT /take HTTP/1.1\r\nhost: usher\r\nconnection: close\r\ncontent-length: 50\r\n\r\nsome";
        let answer = rest(listening.begin(head).await).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        let whole = [&head[..], &[b'x'; 46]].concat();
        let answer = rest(listening.begin(&whole).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let head = b"PUT /take HTTP/1.1\r\nhost: usher\r\nconnection: close\r\ncontent-length: 101\r\n\r\n";
        let answer = rest(listening.begin(&[&head[..], &[b'x'; 101]].concat()).await).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }

    #[tokio::test]
    async fn more_connections_than_the_bound_wait_until_one_has_ended() {
        let bounds = Bounds { head: SHORT, connections: 2, ..PATIENT };
        let listening = Listening::within(bounds).await;
        let slow = [listening.begin(b"GET").await, listening.begin(b"GET").await];
        let waiting = [listening.begin(ASKED).await, listening.begin(ASKED).await, listening.begin(ASKED).await];
        for stream in waiting {
            assert!(rest(stream).await.ends_with("there\n"));
        }
        drop(slow);
    }

    #[tokio::test]
    async fn whoever_does_not_read_the_answer_is_cut_off_when_the_connection_is_old() {
        let bounds = Bounds { life: SHORT, body: SHORT, connections: 1, ..PATIENT };
        let listening = Listening::within(bounds).await;
        let unread = listening.begin(b"GET /endless HTTP/1.1\r\nhost: usher\r\n\r\n").await;
        assert!(listening.is_served().await);
        drop(unread);
    }

    #[tokio::test]
    async fn stopping_waits_for_open_requests_only_for_a_while() {
        let mut listening = Listening::within(Bounds { drain: SHORT, ..PATIENT }).await;
        let open = listening.begin(b"GET /never HTTP/1.1\r\nhost: usher\r\n\r\n").await;
        assert!(listening.is_served().await);
        listening.stop.cancel();
        (&mut listening.served).await.unwrap().unwrap();
        TcpListener::bind(listening.address).await.expect("the port is free");
        assert_eq!(rest(open).await, "");
    }
}
