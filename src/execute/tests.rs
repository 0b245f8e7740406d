//! The executor against an actuator that obeys a script.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::ids::{SpaceId, UserId};
use crate::observed::{Child, Marker};
use crate::plan::{Class, Reason, Removal};

/// Remembers what it was asked, fails what it was told to.
#[derive(Default)]
struct Scripted {
    asked: Mutex<Vec<String>>,
    refuse: Vec<&'static str>,
    /// Fails what is refused as something that may be tried again.
    passing: bool,
    in_flight: Mutex<BTreeMap<String, usize>>,
    most_in_one_room: Mutex<usize>,
}

#[async_trait]
impl Actuator for Scripted {
    async fn upload(&self, _picture: Arc<[u8]>, _kind: crate::ledger::PictureKind) -> Result<String, ActError> {
        unreachable!("no step of these tests needs one")
    }

    async fn emails_of(&self, _user: &UserId) -> Result<Option<Vec<String>>, crate::matrix::MatrixError> {
        Ok(None)
    }

    async fn perform(&self, action: &Action, _standing: Option<&PowerLevels>) -> Result<Outcome, ActError> {
        let place = action.room().map_or_else(|| "none".to_owned(), ToString::to_string);
        let name = match action {
            Action::CreateRoom(creation) => format!("make {}", creation.key),
            Action::SetState { state, .. } => format!("set {} in {place}", state.label()),
            other => format!("{} {} in {place}", other.verb(), other.user().map_or("", UserId::as_str)),
        };
        self.asked.lock().unwrap().push(name.clone());
        {
            let mut flights = self.in_flight.lock().unwrap();
            let flight = flights.entry(place.clone()).or_default();
            *flight += 1;
            let mut most = self.most_in_one_room.lock().unwrap();
            *most = (*most).max(if place == "none" { 0 } else { *flight });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        *self.in_flight.lock().unwrap().get_mut(&place).unwrap() -= 1;
        if self.refuse.iter().any(|refused| name.starts_with(refused)) {
            let kind = if self.passing { ActErrorKind::Retry } else { ActErrorKind::Refused };
            return Err(ActError { attempted: name, cause: "no".into(), code: None, kind });
        }
        let room = match action {
            Action::CreateRoom(creation) => Some(RoomId::from(format!("!{}", creation.key))),
            _ => None,
        };
        Ok(Outcome { room, ..Outcome::default() })
    }
}

struct Always;

impl Watch for Always {
    fn may_write(&self) -> bool {
        true
    }

    fn time_left(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn ended(&mut self, _step: &Step, _result: Result<&Outcome, &ActError>) {}
}

fn observed() -> Observed {
    Observed {
        server: "x".into(),
        bot: "@usher:x".into(),
        sender: "@_usher:x".into(),
        bot_registered: crate::observed::Known::Known(true),
        bot_display_name: crate::observed::Known::Unknown,
        rooms: BTreeMap::new(),
        outside: BTreeMap::new(),
        adoptable: BTreeMap::new(),
        estates: BTreeMap::new(),
        unread: BTreeSet::new(),
        aliases: BTreeMap::new(),
        leavers: crate::observed::Known::Unknown,
        accounts: crate::observed::Accounts::default(),
    }
}

fn step(action: Action, place: &Key) -> Step {
    Step { action, reason: Reason::Everyone, place: Some(place.clone()), withheld: None, removal: None }
}

fn space(id: &str) -> Key {
    Key::Space(SpaceId::from(id))
}

fn room(id: &str) -> Key {
    Key::Room { space: id.into(), slot: "general".into() }
}

fn creation(key: &Key, allow: Vec<RoomRef>) -> Action {
    let marker = Marker {
        instance: "main".into(),
        key: key.clone(),
        made: BTreeSet::new(),
        abandoned: false,
        additive: false,
        original_creator: None,
        former: BTreeSet::new(),
        adopted: false,
    };
    Action::CreateRoom(Box::new(Creation { key: key.clone(), body: json!({ "room_version": "12" }), allow, marker }))
}

fn invite(key: &Key, user: &str) -> Action {
    Action::Invite { room: RoomRef::New(key.clone()), user: UserId::new(user, "x"), text: Arc::from("") }
}

fn marker(key: &Key) -> Action {
    let Action::CreateRoom(creation) = creation(key, Vec::new()) else { unreachable!() };
    Action::SetState { room: RoomRef::New(key.clone()), state: StateChange::Marker(creation.marker) }
}

fn world() -> Vec<Step> {
    let mut steps = Vec::new();
    for name in ["a", "b"] {
        let (space, room) = (space(name), room(name));
        steps.push(step(creation(&space, Vec::new()), &space));
        steps.push(step(creation(&room, vec![RoomRef::New(space.clone())]), &room));
        let child = StateChange::Child { child: RoomRef::New(room.clone()), link: Child::default() };
        steps.push(step(Action::SetState { room: RoomRef::New(space.clone()), state: child }, &room));
        steps.push(step(marker(&space), &space));
        for user in ["u1", "u2", "u3"] {
            steps.push(step(invite(&space, user), &space));
            steps.push(step(invite(&room, user), &room));
        }
    }
    steps
}

#[tokio::test(start_paused = true)]
async fn a_room_is_written_to_by_one_step_at_a_time_and_every_step_is_done() {
    let actuator = Scripted::default();
    let steps = world();
    let all = steps.len();
    let report = run(steps, &mut observed(), &actuator, &mut Always, SLICE).await;
    assert!(report.finished);
    assert_eq!((report.done.len(), report.failed.len(), report.skipped), (all, 0, 0));
    assert_eq!(*actuator.most_in_one_room.lock().unwrap(), 1);
    let asked = actuator.asked.lock().unwrap();
    let at = |name: &str| asked.iter().position(|asked| asked.starts_with(name)).unwrap();
    assert!(at("make a") < at("make a/general"));
    assert!(at("set child") < at("set marker"), "what was made is remembered once it is linked");
}

#[tokio::test(start_paused = true)]
async fn what_depends_on_a_failed_making_is_skipped_and_the_rest_goes_on() {
    let actuator = Scripted { refuse: vec!["make a/general"], ..Scripted::default() };
    let report = run(world(), &mut observed(), &actuator, &mut Always, SLICE).await;
    assert!(report.finished);
    assert_eq!(report.failed.len(), 1);
    // The link, the marker and three invitations into the room that was not made.
    assert_eq!(report.skipped, 5);
    let asked = actuator.asked.lock().unwrap();
    assert!(!asked.iter().any(|asked| asked == "set marker in !a"));
    assert!(asked.iter().any(|asked| asked == "set marker in !b"));
    assert!(asked.iter().any(|asked| asked == "invite @u3:x in !a"), "the space itself is there");
}

#[tokio::test(start_paused = true)]
async fn a_lock_stays_on_while_the_account_data_may_tell_of_it() {
    let steps = || {
        let unlock = Action::Account { user: UserId::new("u1", "x"), deed: AccountDeed::Unlock };
        let mirror = Action::MirrorLeavers { leavers: BTreeMap::new() };
        vec![step(unlock, &space("a")), step(mirror, &space("a"))]
    };
    for (refuse, passing, done) in [(vec![], false, 2), (vec!["note down"], true, 0), (vec!["note down"], false, 1)] {
        let actuator = Scripted { refuse, passing, ..Scripted::default() };
        let report = run(steps(), &mut observed(), &actuator, &mut Always, SLICE).await;
        let asked = actuator.asked.lock().unwrap();
        assert_eq!((report.done.len(), asked[0].starts_with("note down")), (done, true), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_person_does_not_keep_the_others_out() {
    let actuator = Scripted { refuse: vec!["invite @u1:x in !a"], ..Scripted::default() };
    let report = run(world(), &mut observed(), &actuator, &mut Always, SLICE).await;
    assert_eq!(report.failed.len(), 2, "the space and its room");
    assert_eq!(report.skipped, 0);
}

/// Two people are taken out of a space, it is unlinked, marked, and left.
fn abandonment(id: &str) -> Vec<Step> {
    let key = space(id);
    let here = || RoomRef::Id(RoomId::from(format!("!{id}")));
    let Action::CreateRoom(creation) = creation(&key, Vec::new()) else { unreachable!() };
    let kick = |user| Action::Kick { room: here(), user: UserId::new(user, "x"), text: Arc::from("") };
    let unlink = StateChange::Unchild { child: RoomId::from(format!("!{id}")) };
    let actions = [
        kick("u1"),
        kick("u2"),
        Action::SetState { room: RoomRef::Id("!parent".into()), state: unlink },
        Action::SetState { room: here(), state: StateChange::Unmark(creation.marker) },
        Action::RemoveAlias { room: here(), key: key.clone(), alias: "#alias:x".into() },
        Action::Leave { room: here() },
    ];
    let removal =
        Removal { class: Class::Spaces, space: key.clone(), person: None, counts: true, emptied: None, adopted: false };
    let removal = Some(Box::new(removal));
    actions.into_iter().map(|action| Step { removal: removal.clone(), ..step(action, &key) }).collect()
}

#[tokio::test(start_paused = true)]
async fn a_space_is_marked_and_left_only_when_everything_before_is_done() {
    for refused in ["remove @u1:x in !a", "set no child !a in !parent"] {
        let actuator = Scripted { refuse: vec![refused], ..Scripted::default() };
        let steps = abandonment("a").into_iter().chain(abandonment("b")).collect();
        let report = run(steps, &mut observed(), &actuator, &mut Always, SLICE).await;
        assert_eq!((report.failed.len(), report.skipped), (1, 3), "marker, alias and leaving: {refused}");
        let asked = actuator.asked.lock().unwrap();
        assert!(asked.iter().any(|asked| asked == "remove @u2:x in !a"), "{asked:?}");
        let closed: Vec<&str> = asked.iter().map(String::as_str).filter(|asked| asked.ends_with("in !b")).collect();
        let expected = ["remove @u1:x", "remove @u2:x", "set no marker", "remove alias ", "leave "];
        assert_eq!(closed, expected.map(|deed| format!("{deed} in !b")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slice_ends_on_time_and_says_so() {
    let actuator = Scripted::default();
    let report = run(world(), &mut observed(), &actuator, &mut Always, Duration::from_millis(25)).await;
    assert!(!report.finished);
    assert!(report.done.len() < world().len() && !report.done.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_without_the_right_to_write() {
    struct Never;
    impl Watch for Never {
        fn may_write(&self) -> bool {
            false
        }
        fn time_left(&self) -> Duration {
            Duration::ZERO
        }
        fn ended(&mut self, _step: &Step, _result: Result<&Outcome, &ActError>) {}
    }
    let actuator = Scripted::default();
    let report = run(world(), &mut observed(), &actuator, &mut Never, SLICE).await;
    assert!(!report.finished);
    assert!(actuator.asked.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_room_is_forgotten_in_the_slice_that_removes_somebody_from_it() {
    let actuator = Scripted::default();
    let mut known = observed();
    let here = RoomRef::Id("!r".into());
    let deed = |user: &str| Action::Puppet { room: here.clone(), user: user.into(), deed: Deed::Forget };
    let kick = |user: &str| Action::Kick { room: here.clone(), user: user.into(), text: Arc::from("") };
    let steps = [kick("@ann:x"), deed("@ann:x"), kick("@ben:x"), deed("@ben:x")];
    let steps = steps.map(|action| step(action, &room("r"))).to_vec();
    let report = run(steps, &mut known, &actuator, &mut Always, Duration::from_millis(1)).await;
    assert!(!report.finished);
    let asked = actuator.asked.lock().unwrap();
    assert_eq!(*asked, ["remove @ann:x in !r", "forget as @ann:x in !r"]);
}
