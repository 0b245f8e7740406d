//! Reads, their cost, and what becomes of failed requests.

use std::time::{Duration, Instant};

use serde_json::json;
use usher::actuate::ActErrorKind;
use usher::matrix::{Homeserver, NewAccounts, Trouble};
use usher::observed::Account;
use usher::plan::{Action, StateChange};

use crate::contract::ground::{Ground, access, at, user};
use crate::lab::proxy::Fault;

pub async fn a_full_read_stays_within_its_budget(ground: &Ground) {
    ground.space("budget").await;
    ground.proxy.clear();
    let observed = ground.homeserver.full().await.unwrap();
    let budget = observed.rooms.len() + observed.accounts.people.len() / 1000 + 10;
    assert!(observed.rooms.len() > 5);
    assert!(ground.proxy.count() <= budget, "{} requests, {budget} allowed", ground.proxy.count());
    assert_eq!(ground.proxy.writes(), Vec::<String>::new());
    let seen = ground.proxy.seen();
    let lists: Vec<_> = seen.iter().filter(|seen| seen.path.ends_with("/v2/users")).collect();
    assert!(
        !lists.is_empty() && lists.iter().all(|list| !list.query.contains("user_id=")),
        "that is the list's filter"
    );
    let counted: u64 = ground.homeserver.requests().counts().iter().map(|line| line.count).sum();
    assert!(counted >= ground.proxy.count() as u64);
}

pub async fn accounts_are_found_by_every_way(ground: &Ground) {
    let known = ground.homeserver.accounts().await.unwrap().unwrap();
    let eve = ground.person("eve").await;
    ground.proxy.clear();
    let new = ground.homeserver.accounts_since(&known).await.unwrap().unwrap();
    assert_eq!(ground.proxy.count(), 1);
    assert_eq!(new.people.keys().collect::<Vec<_>>(), [&eve.user]);
    assert!(!new.gap);
    let mut known = known;
    known.people.extend(new.people);
    assert_eq!(ground.homeserver.accounts_since(&known).await.unwrap().unwrap(), NewAccounts::default());
    known.people.remove(&user("stranger"));
    known.people.insert(user("somebody-deleted"), Account::default());
    known.people.insert(user("another-deleted"), Account::default());
    assert!(ground.homeserver.accounts_since(&known).await.unwrap().unwrap().gap);

    let asked = [eve.user.clone(), user("nobody-at-all")].into();
    let probed = ground.homeserver.probe_accounts(&asked).await.unwrap();
    assert_eq!((probed.exist, probed.absent), ([eve.user.clone()].into(), [user("nobody-at-all")].into()));

    let root = ground.admin().await;
    let admins = ground.homeserver.admins().await.unwrap().unwrap();
    assert!(admins.contains(&root.user) && admins.contains(ground.homeserver.bot()) && !admins.contains(&eve.user));

    // Locked people must not vanish from the list; and an admin's own token does what the sender's does.
    let path = format!("/_synapse/admin/v2/users/{}", crate::lab::synapse::escape(eve.user.as_str()));
    root.must("PUT", &path, json!({ "locked": true })).await;
    let mut by_admin = access(ground.proxy.url());
    by_admin.admin_token = Some(root.token.clone().into());
    let by_admin = Homeserver::connect(by_admin, &ground.registration).await.unwrap();
    assert!(by_admin.accounts().await.unwrap().unwrap().people[&eve.user].locked);
    let mut by_nobody = access(ground.proxy.url());
    let mallory = ground.person("mallory").await;
    by_nobody.admin_token = Some(mallory.token.into());
    let by_nobody = Homeserver::connect(by_nobody, &ground.registration).await.unwrap();
    assert!(by_nobody.accounts().await.unwrap().is_none());
}

pub async fn writes_are_never_repeated_and_waits_are_kept(ground: &Ground) {
    let room = ground.space("faults").await;
    let rename = |name: &str| Action::SetState { room: at(&room), state: StateChange::Name(name.to_owned()) };

    ground.proxy.clear();
    ground.proxy.spoil(|_| Some(Fault::Answer(502, json!({}))));
    ground.refused(&rename("a"), ActErrorKind::Retry).await;
    assert_eq!(ground.proxy.count(), 1);
    ground.proxy.clear();
    ground.proxy.spoil(|_| Some(Fault::DropBefore));
    ground.refused(&rename("a"), ActErrorKind::Retry).await;
    assert_eq!(ground.proxy.count(), 1);

    // Slow is not broken.
    ground.proxy.clear();
    ground.proxy.spoil(|_| Some(Fault::Delay(Duration::from_millis(300))));
    ground.perform(&rename("slow")).await;
    assert_eq!(ground.proxy.count(), 1);

    // A read is tried twice, and no more.
    ground.proxy.spoil(|_| Some(Fault::DropBefore));
    ground.proxy.clear();
    let error = ground.homeserver.room(&room).await.unwrap_err();
    assert_eq!((error.trouble, ground.proxy.count()), (Trouble::Away, 2));

    // One "wait" holds up every write for as long as it says.
    ground.proxy.clear();
    ground.proxy.spoil_write(0, Fault::Answer(429, json!({ "errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 700 })));
    let started = Instant::now();
    let (first, second) = (rename("b"), rename("c"));
    let (_, _) = tokio::join!(ground.perform(&first), async {
        while ground.proxy.count() == 0 {
            tokio::task::yield_now().await;
        }
        ground.perform(&second).await
    });
    assert_eq!(ground.proxy.count(), 3);
    assert!(started.elapsed().as_millis() >= 700);
    ground.proxy.behave();

    // One room that cannot be read spoils a strict read only.
    let before = ground.homeserver.full().await.unwrap();
    let path = format!("/rooms/{}/state", crate::lab::synapse::escape(room.as_str()));
    ground.proxy.spoil(move |seen| seen.path.contains(&path).then(|| Fault::Answer(500, json!({}))));
    assert_eq!(ground.homeserver.full().await.unwrap_err().trouble, Trouble::Away);
    let reread = ground.homeserver.reread(Some(&before)).await.unwrap();
    assert_eq!(reread.unread.iter().map(|(room, _)| room).collect::<Vec<_>>(), [&room]);
    assert_eq!(reread.observed.rooms, before.rooms);
    ground.proxy.behave();
}
