//! What a SCIM client was told is done survives kill -9 (S-83): people, memberships, deletions, and the letters that go with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use usher::ids::Timestamp;
use usher::mail::Occasion;

use super::scim::{GROUP, Lonely, Provider, USER};
use crate::lab::ports::free_port;
use crate::stores::Database;

/// What the client knows by the answers it got.
#[derive(Debug, Default)]
struct Acknowledged {
    /// Matrix names by id.
    people: BTreeMap<String, String>,
    members: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// Whose deletion was sent, and not answered: it may be done or not.
    unsure: BTreeSet<String>,
}

impl Acknowledged {
    /// Creates people, puts them into the group, deletes every third, until nobody answers.
    async fn grow(&mut self, provider: &Provider, group: &str, round: u64) {
        for number in 0.. {
            let name = format!("user-{round}-{number}");
            let emails = json!([{ "value": format!("{name}@canary-mail.example") }]);
            let body = json!({ "schemas": [USER], "userName": name, "emails": emails });
            let (status, answer) = provider.call("POST", "/Users", body).await;
            if status == 0 {
                return;
            }
            assert_eq!(status, 201, "{answer}");
            let id = answer["id"].as_str().unwrap().to_owned();
            self.people.insert(id.clone(), format!("@{name}:lab.test"));
            let operation = json!({ "op": "add", "path": "members", "value": [{ "value": id }] });
            match provider.call("PATCH", group, json!({ "Operations": [operation] })).await {
                (0, _) => return,
                (status, answer) => assert!([200, 204].contains(&status), "{status} {answer}"),
            }
            self.members.insert(id.clone());
            if number % 3 == 2 {
                self.unsure.insert(id.clone());
                match provider.call("DELETE", &format!("/Users/{id}"), Value::Null).await {
                    (0, _) => return,
                    (status, answer) => assert_eq!(status, 204, "{answer}"),
                }
                self.unsure.remove(&id);
                self.deleted.insert(id);
            }
        }
    }

    async fn is_there(&self, provider: &Provider, group: &str) {
        for id in self.people.keys().filter(|id| !self.unsure.contains(*id)) {
            let expected = if self.deleted.contains(id) { 404 } else { 200 };
            assert_eq!(provider.call("GET", &format!("/Users/{id}"), Value::Null).await.0, expected, "{id}");
        }
        let shown = provider.must("GET", group, Value::Null).await;
        let shown = shown["members"].as_array().cloned().unwrap_or_default();
        let members: BTreeSet<String> = shown.iter().map(|one| one["value"].as_str().unwrap().to_owned()).collect();
        assert_eq!(members.len(), shown.len(), "nobody is in it twice");
        let lost: Vec<&String> = self.members.iter().filter(|id| !members.contains(*id)).collect();
        let gone = |id: &&String| self.deleted.contains(*id) || self.unsure.contains(*id);
        assert!(lost.iter().all(gone), "{lost:?}");
        assert_eq!(self.deleted.intersection(&members).count(), 0, "who was deleted is in no group");
    }

    /// One letter for each turn that was acknowledged, and none twice.
    async fn is_told(&self, database: &Database) {
        let store = database.open().await;
        let mut letters: BTreeMap<(String, &str), usize> = BTreeMap::new();
        for waiting in store.letters_due(Timestamp(i64::MAX), u32::MAX).await.unwrap() {
            *letters.entry((waiting.letter.user_id, waiting.letter.occasion.name())).or_default() += 1;
        }
        store.close().await;
        let doubled: Vec<_> = letters.iter().filter(|(_, count)| **count != 1).collect();
        assert_eq!(doubled, [], "one each");
        for (id, user) in &self.people {
            let has = |occasion: Occasion| letters.contains_key(&(user.clone(), occasion.name()));
            assert!(has(Occasion::Registered), "{user}");
            if !self.unsure.contains(id) {
                assert_eq!(has(Occasion::Deactivated), self.deleted.contains(id), "{user}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let database = Database::sqlite();
    let mut lonely = Lonely::new(&database.url).await;
    // Nobody listens there: every letter stays where it was put.
    let transport = json!({ "host": "127.0.0.1", "port": free_port(), "secure": false, "ignoreTLS": true });
    lonely.mailing(json!({ "from": "it@canary-mail.example", "transport": transport }));
    let mut known = Acknowledged::default();
    let (running, provider) = lonely.serve("first").await;
    let made = provider.must("POST", "/Groups", json!({ "schemas": [GROUP], "displayName": "all" })).await;
    let group = format!("/Groups/{}", made["id"].as_str().unwrap());
    running.kill9();
    let mut round = 0;
    while round < 5 || known.people.len() <= 20 || known.deleted.len() <= 5 {
        assert!(round < 50, "usher hardly gets anywhere: {known:?}");
        let (running, provider) = lonely.serve(&format!("run-{round}")).await;
        known.is_there(&provider, &group).await;
        let killing = async {
            tokio::time::sleep(Duration::from_millis(300 + 150 * round.min(5))).await;
            running.kill9();
        };
        tokio::join!(known.grow(&provider, &group, round), killing);
        round += 1;
    }
    let (running, provider) = lonely.serve("last").await;
    known.is_there(&provider, &group).await;
    running.stop().await.code(0);
    known.is_told(&database).await;
}
