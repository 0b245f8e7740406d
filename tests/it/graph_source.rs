//! The `ms-graph-ad` source against a stand-in for Microsoft Graph (S-8): no real tenant was ever asked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot set up its world should fail there and then"
)]

mod groups;
mod people;
mod photos;
mod probes;
mod traps;

use usher::bridge::Bridge as _;
use usher::bridge::msgraph::{GraphBridge, Wanted};
use usher::config::MsGraphSource;
use usher::directory::Snapshot;

use crate::lab::graph::{Graph, SECRET};

/// The beginning of every token, and the domain of every mail address.
const NEVER_SHOWN: [&str; 3] = ["canary-token", "canary-mail", SECRET];

fn wanting(groups: &[&str]) -> Wanted {
    Wanted { groups: groups.iter().map(|name| (*name).to_owned()).collect(), photos: false }
}

fn bridge(source: &MsGraphSource, groups: &[&str]) -> GraphBridge {
    GraphBridge::new(source, wanting(groups)).unwrap()
}

/// One read in which these groups are wanted.
async fn fetch(graph: &Graph, groups: &[&str]) -> Snapshot {
    bridge(&graph.source(), groups).fetch().await.unwrap()
}

/// The error of a read that brings nothing, and whether it is worth trying again.
async fn failure(source: &MsGraphSource) -> (String, bool) {
    let error = match GraphBridge::new(source, wanting(&["staff"])) {
        Ok(mut bridge) => bridge.fetch().await.expect_err("the read should fail"),
        Err(error) => error,
    };
    let text = format!("{error} {error:?}");
    assert!(!NEVER_SHOWN.iter().any(|canary| text.contains(canary)), "{text}");
    (error.to_string(), error.retry)
}

/// Without the address of the stand-in.
fn anywhere(text: &str, graph: &Graph) -> String {
    text.replace(&graph.url, "http://graph")
}
