//! The operations listener over real HTTP.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use usher::http::ops::{Heartbeat, Operations, bind, serve};
use usher::ids::Timestamp;
use usher::observability::{Metrics, OutboxStatus, SourceStatus, Status};

use super::Database;
use crate::lab::postgres::Postgres;

struct Listener {
    address: String,
    metrics: Arc<Metrics>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
}

async fn listener(store: usher::store::Store, token: Option<&str>) -> Listener {
    let socket = bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let (metrics, (status, receiver)) = (Arc::new(Metrics::new()), watch::channel(Status::default()));
    let stop = CancellationToken::new();
    let operations = Operations {
        heartbeat: Heartbeat::default(),
        metrics: Arc::clone(&metrics),
        status: receiver,
        store: watch::channel(Some(store)).1,
        token: token.map(SecretString::from),
    };
    let served = tokio::spawn(serve(socket, operations, stop.clone()));
    Listener { address, metrics, status, stop, served }
}

async fn get(listener: &Listener, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let mut request = reqwest::Client::new().get(format!("http://{}{path}", listener.address));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn probes_metrics_and_status_are_answered_and_stop_on_demand() {
    let database = Database::sqlite();
    let listener = listener(database.open().await, None).await;
    assert_eq!(get(&listener, "/live", None).await, (StatusCode::OK, "live\n".into()));
    assert_eq!(get(&listener, "/ready", None).await, (StatusCode::OK, "ready\n".into()));
    listener.metrics.pass_ended("ok", Timestamp(1_000));
    let (code, text) = get(&listener, "/metrics", None).await;
    assert_eq!(code, StatusCode::OK);
    assert!(text.contains("usher_passes_total{result=\"ok\"} 1") && text.ends_with("# EOF\n"), "{text}");
    let source = SourceStatus { kind: "file".into(), users: 60, complete: true, ..SourceStatus::default() };
    let status = Status { instance: "main".into(), source, ..Status::default() };
    listener.status.send_replace(status.clone());
    let (_, text) = get(&listener, "/status", None).await;
    let status = Status { outbox: Some(OutboxStatus::default()), ..status };
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    listener.stop.cancel();
    listener.served.await.unwrap().unwrap();
    assert!(reqwest::get(format!("http://{}/live", listener.address)).await.is_err());
}

#[tokio::test]
async fn the_token_guards_what_tells_something_and_never_the_probes() {
    let database = Database::sqlite();
    let listener = listener(database.open().await, Some("s3cret")).await;
    for path in ["/status", "/metrics"] {
        assert_eq!(get(&listener, path, None).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(get(&listener, path, Some("s3cre")).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(get(&listener, path, Some("s3cret")).await.0, StatusCode::OK);
    }
    for path in ["/live", "/ready"] {
        assert_eq!(get(&listener, path, None).await.0, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_makes_it_unready_and_leaves_it_live() {
    let server = Postgres::start().await;
    let store = usher::store::Store::open(&server.database().await).await.unwrap();
    let listener = listener(store, None).await;
    assert_eq!(get(&listener, "/ready", None).await.0, StatusCode::OK);
    server.stop();
    assert_eq!(get(&listener, "/ready", None).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&listener, "/live", None).await.0, StatusCode::OK);
    server.resume().await;
    let mut ready = StatusCode::SERVICE_UNAVAILABLE;
    for _ in 0..100 {
        ready = get(&listener, "/ready", None).await.0;
        if ready == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ready, StatusCode::OK);
}
