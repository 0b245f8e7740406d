//! Accounts on a real homeserver (S-50 to S-54): locked, given back, erased at the due time and never before, whatever is killed or lost
//! on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

use super::world::World;
use crate::lab::synapse::{PASSWORD, escape};

/// A company whose leavers are locked at once and erased a day later.
pub(super) async fn company() -> World {
    let mut world = World::new().await;
    world.config["userProvisioner"] = json!({ "deprovisioning": { "enabled": true, "soft_delete_period": "1d" } });
    world.config["appservice"] = json!({ "puppet_registration": "usher-puppet.yaml" });
    world.write();
    world.settle().await;
    for thing in ["blue", "blue/general"] {
        world.join("jon", thing).await;
    }
    world
}

pub(super) fn leave(world: &mut World, name: &str) {
    world.people.remove(name);
    for members in world.groups.values_mut() {
        members.remove(name);
    }
    world.write_source();
}

pub(super) fn come_back(world: &mut World, name: &str) {
    world.employ(name);
    world.groups.get_mut("blue").unwrap().insert(name.to_owned());
    world.write_source();
}

impl World {
    /// `apply` so many minutes from now; `clocks_agree`: the homeserver's clock is as far ahead.
    pub(super) async fn apply_at(&self, minutes: i64, clocks_agree: bool) -> super::child::Ended {
        self.proxy.set_clock_ahead(if clocks_agree { minutes * 60 } else { 0 });
        let ended = self.usher_at(&format!("+{minutes}m"), &["apply", "--yes"]).await;
        self.proxy.set_clock_ahead(0);
        ended
    }

    /// What becomes of somebody's own request: 200, or the error's code.
    pub(super) async fn session(&self, name: &str) -> String {
        let (status, answer) = self.as_person(name, "GET", "/_matrix/client/v3/account/whoami", Value::Null).await;
        if status == 200 { "ok".to_owned() } else { answer["errcode"].as_str().unwrap_or_default().to_owned() }
    }

    /// What becomes of a login with the right password: `ok`, or the error's code.
    pub(super) async fn login(&self, name: &str) -> String {
        let body = json!({ "type": "m.login.password", "password": PASSWORD,
                           "identifier": { "type": "m.id.user", "user": self.local(name) } });
        let url = format!("{}/_matrix/client/v3/login", self.stage.url());
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        let (ok, answer) = (answer.status().is_success(), answer.json::<Value>().await.unwrap());
        if ok { "ok".to_owned() } else { answer["errcode"].as_str().unwrap_or_default().to_owned() }
    }

    pub(super) async fn account(&self, name: &str) -> Value {
        let path = format!("/_synapse/admin/v2/users/{}", escape(&self.user(name)));
        self.as_admin("GET", &path, Value::Null).await.1
    }

    pub(super) async fn audited(&self) -> String {
        self.usher(&["audit", "export"]).await.code(0).out.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaver_is_locked_returns_to_the_old_session_and_is_erased_at_the_due_time() {
    let mut world = company().await;
    world.join("gus", "org").await;
    assert_eq!((world.level("org", "gus").await, world.login("jon").await), (50, "ok".to_owned()));
    leave(&mut world, "jon");
    leave(&mut world, "gus");
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(world.session("jon").await, "ok", "one look is not enough");
    world.apply_at(120, true).await.code(0);
    assert_eq!(world.session("jon").await, "M_USER_LOCKED");
    assert_eq!(world.login("jon").await, "M_USER_LOCKED", "nor is there a new session");
    assert!(world.inside("org").await.contains("gus") && world.session("gus").await == "M_USER_LOCKED");
    assert_eq!(world.level("org", "gus").await, 50, "levels stay");
    assert!(world.inside("blue").await.contains("jon") && world.inside("blue/general").await.contains("jon"));
    // They never answered the invitations to these.
    for thing in ["org", "org/general"] {
        assert_eq!(world.members(thing).await["jon"], "leave", "withdrawn");
    }
    world.usher_at("+121m", &["plan"]).await.code(0).says("grace until");
    world.usher(&["grace", "list"]).await.code(0).says(&world.user("jon")).says("erasure not before");

    come_back(&mut world, "gus");
    world.groups.get_mut("leads").unwrap().insert("gus".to_owned());
    come_back(&mut world, "jon");
    world.apply_at(180, true).await.code(0);
    assert_eq!(world.session("jon").await, "ok", "the session of before");
    assert_eq!(world.level("org", "gus").await, 50);
    assert_eq!(world.members("org").await["jon"], "invite", "asked again");
    world.usher(&["grace", "list"]).await.code(0).says("Nobody is locked");

    // Gone for good: seen at 4 h, locked at 6 h, due a day later.
    leave(&mut world, "jon");
    world.apply_at(240, true).await.code(0);
    world.apply_at(360, true).await.code(0);
    assert_eq!(world.session("jon").await, "M_USER_LOCKED");
    let due = 360 + 24 * 60;
    world.apply_at(due - 10, true).await.code(0);
    // Due, but by a clock the homeserver does not share.
    world.apply_at(due + 60, false).await.code(0).says("clock");
    // A fresh process needs two looks ten minutes apart.
    world.apply_at(due + 62, true).await.code(0).says("second look");
    world.apply_at(due + 65, true).await.code(0);
    assert_eq!(world.account("jon").await["deactivated"], false, "never sooner");
    world.apply_at(due + 75, true).await.code(0);
    let account = world.account("jon").await;
    assert!(account["deactivated"] == true && account["erased"] == true, "{account}");
    assert!(!world.inside("blue").await.contains("jon"));
    assert_eq!(world.session("jon").await, "M_UNKNOWN_TOKEN");

    let audited = world.audited().await;
    let last: Vec<&str> = audited.lines().filter(|line| line.contains("\"action\":\"erase\"")).collect();
    assert!(last.len() == 1 && last[0].contains("erased:") && last[0].contains("\"done\""), "{audited}");
    assert!(!audited.contains(&world.local("jon")), "the name is gone from the record: {audited}");
    world.usher_at(&format!("+{}m", due + 76), &["plan"]).await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_forgets_neither_a_lock_nor_its_grace() {
    let mut world = company().await;
    leave(&mut world, "jon");
    world.usher(&["apply", "--yes"]).await.code(0);
    world.apply_at(120, true).await.code(0);
    let before = world.usher_at("+121m", &["grace", "list", "--json"]).await;
    for file in ["usher.db", "usher.db-wal", "usher.db-shm"] {
        let _ = std::fs::remove_file(world.path(file));
    }
    world.apply_at(130, true).await;
    let after = world.usher_at("+131m", &["grace", "list", "--json"]).await;
    assert_eq!(before.out, after.out, "the same people, the same dates");
    assert_eq!(world.session("jon").await, "M_USER_LOCKED");
    world.apply_at(250, true).await;
    assert!(world.inside("blue").await.contains("jon"));
    come_back(&mut world, "jon");
    world.apply_at(260, true).await;
    assert_eq!(world.session("jon").await, "ok", "it was provably usher's lock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_restores_extends_and_erases_and_a_human_lock_stands() {
    let mut world = company().await;
    let path = format!("/_synapse/admin/v2/users/{}", escape(&world.user("ida")));
    assert_eq!(world.as_admin("PUT", &path, json!({ "locked": true })).await.0, 200);
    for name in ["ida", "jon", "hal"] {
        leave(&mut world, name);
    }
    world.usher(&["apply", "--yes"]).await.code(0);
    world.apply_at(120, true).await.code(0);
    assert_eq!(world.session("hal").await, "M_USER_LOCKED");
    let (hal, jon) = (world.local("hal"), world.local("jon"));
    world.usher(&["grace", "restore", &world.local("ida")]).await.code(1).says("not locked by usher");
    world.usher_at("+121m", &["grace", "restore", &hal]).await.code(0).says("usher audit tail");
    world.usher_at("+121m", &["grace", "extend", &jon, "90d"]).await.code(0);
    world.apply_at(122, true).await.code(0);
    assert_eq!(world.session("hal").await, "ok", "given back although the directory does not have them");
    assert_eq!(world.session("jon").await, "M_USER_LOCKED");
    world.apply_at(60 * 24 * 40, true).await.code(0);
    world.apply_at(60 * 24 * 40 + 20, true).await.code(0);
    assert_eq!(world.account("jon").await["deactivated"], false, "put off");
    // A typo gives nobody's account away, and says so.
    world.usher_at("+57640m", &["rebind", "nobody-has-this-id", &jon]).await.code(0).says("refused unless");
    world.usher_at("+57650m", &["grace", "erase-now", &jon]).await.code(0);
    world.apply_at(60 * 24 * 40 + 60, true).await.code(0);
    assert_eq!(world.account("jon").await["erased"], true);
    let audited = world.audited().await;
    assert!(audited.contains("order rebind") && audited.contains("refused: nobody in the directory"), "{audited}");
    assert!(
        audited.contains("order extend") && !audited.contains(&jon),
        "the name is gone from orders, too: {audited}"
    );
    assert_eq!(world.session("hal").await, "ok", "restored for good");
    world.usher_at("+57680m", &["grace", "list"]).await.code(0).says("restored by an operator");
    world.usher_at("+57680m", &["grace", "lock", &hal]).await.code(0);
    world.apply_at(60 * 24 * 40 + 85, true).await.code(0);
    assert_eq!(world.session("hal").await, "M_USER_LOCKED", "a restore is taken back by an order");
    come_back(&mut world, "ida");
    world.apply_at(60 * 24 * 40 + 90, true).await.code(0);
    assert_eq!(world.session("ida").await, "M_USER_LOCKED", "what a human locked stays locked");
    world.usher(&["audit", "tail", "200"]).await.code(0).says("order restore").says("order erase-now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_follow_the_directory_and_an_address_is_never_taken_from_somebody() {
    let mut world = World::new().await;
    world.config["userProvisioner"] = json!({ "synapse": { "attributes": ["displayName", "emails"] } });
    world.write();
    // Somebody beyond the directory has the address the directory gives to jon.
    world.open_account("zed").await;
    let address = json!({ "threepids": [{ "medium": "email", "address": world.mail("jon") }] });
    let path = format!("/_synapse/admin/v2/users/{}", escape(&world.user("zed")));
    assert_eq!(world.as_admin("PUT", &path, address).await.0, 200);

    world.usher(&["apply", "--yes"]).await.code(4).says("already");
    let ann = world.account("ann").await;
    assert_eq!(ann["displayname"], "ann");
    assert_eq!(ann["threepids"][0]["address"], world.mail("ann"));
    assert_eq!(world.account("zed").await["threepids"].as_array().unwrap().len(), 1, "nothing was taken from zed");
    assert_eq!(world.account("jon").await["threepids"], json!([]));

    world.proxy.clear();
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(world.proxy.writes(), Vec::<String>::new());
    let singles = world.proxy.seen().iter().filter(|seen| seen.path.contains("/v2/users/")).count();
    // Whose account the refused one is, each start asks once.
    assert!(singles <= 1, "addresses that were read are not read again: {singles}");
}
