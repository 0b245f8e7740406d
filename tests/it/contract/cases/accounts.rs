//! What is done to accounts, and to whom never.

use serde_json::{Value, json};
use usher::account::synapse::Synapse;
use usher::account::{ADDRESS_TAKEN, Accounts, Shield};
use usher::actuate::{ActErrorKind, Actuator as _};
use usher::config::Pattern;
use usher::ids::{RoomId, Timestamp, UserId};
use usher::ledger::{Cause, Leaver, Ledger, Photo, PictureKind, Stage, keyed, normal_emails};
use usher::observed::{Accounts as Listed, Heir, Known};
use usher::plan::{AccountDeed, Action, Attribute, Avatar, Emails, End, Reason, Step};

use crate::contract::ground::{Ground, at, user};
use crate::lab::synapse::{Person, escape};

fn deed(user: &UserId, deed: AccountDeed) -> Action {
    Action::Account { user: user.clone(), deed }
}

fn lock(user: &UserId) -> Action {
    deed(user, AccountDeed::Lock { id: Some("id-of-them".into()) })
}

async fn whoami(person: &Person) -> (u16, Value) {
    person.call("GET", "/_matrix/client/v3/account/whoami", Value::Null).await
}

async fn writes_of(ground: &Ground, action: &Action) -> Vec<String> {
    ground.proxy.clear();
    ground.perform(action).await;
    ground.proxy.writes()
}

pub async fn an_account_is_locked_and_its_old_session_comes_back(ground: &Ground) {
    let lea = ground.person("lea").await;
    let room = ground.space("locked-in").await;
    ground.perform(&Action::Invite { room: at(&room), user: lea.user.clone(), text: "come".into() }).await;
    assert_eq!(lea.join(&room).await.0, 200);
    let pusher = json!({
        "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone",
        "lang": "en", "data": { "url": "http://127.0.0.1:1/_matrix/push/v1/notify" },
    });
    lea.must("POST", "/_matrix/client/v3/pushers/set", pusher.clone()).await;

    ground.do_and_compare(&lock(&lea.user)).await;
    let (status, answer) = whoami(&lea).await;
    assert_eq!((status, answer["errcode"].as_str()), (401, Some("M_USER_LOCKED")));
    ground.refused(&lock(&lea.user), ActErrorKind::Stale).await;
    ground.do_and_compare(&deed(&lea.user, AccountDeed::RemovePushers)).await;
    assert_eq!(writes_of(ground, &deed(&lea.user, AccountDeed::RemovePushers)).await, Vec::<String>::new());

    ground.do_and_compare(&deed(&lea.user, AccountDeed::Unlock)).await;
    assert_eq!(whoami(&lea).await.0, 200, "the same token");
    let pushers = lea.must("GET", "/_matrix/client/v3/pushers", Value::Null).await;
    assert_eq!(pushers["pushers"], json!([]));
    let seen = ground.homeserver.room(&room).await.unwrap().unwrap();
    assert!(seen.members[&lea.user].is_in(), "memberships are untouched");
    assert_eq!(writes_of(ground, &deed(&lea.user, AccountDeed::Unlock)).await, Vec::<String>::new());
    lea.must("POST", "/_matrix/client/v3/pushers/set", pusher).await;
    ground.refused(&deed(&lea.user, AccountDeed::RemovePushers), ActErrorKind::Stale).await;
    let pushers = lea.must("GET", "/_matrix/client/v3/pushers", Value::Null).await;
    assert_eq!(pushers["pushers"].as_array().map(Vec::len), Some(1), "who is back wants to be told of messages");
    ground.refused(&lock(&user("nobody-at-all")), ActErrorKind::Stale).await;
}

pub async fn protected_accounts_are_refused_by_the_hand(ground: &Ground) {
    let root = ground.admin().await.user;
    let bot = ground.homeserver.bot().clone();
    let sender = ground.homeserver.sender().clone();
    for protected in [&root, &bot, &sender] {
        for action in [
            lock(protected),
            deed(protected, AccountDeed::Close(End::Erase)),
            deed(protected, name("Somebody else")),
            deed(protected, avatar(Some("mxc://lab.test/a"), None)),
            deed(protected, gone("mxc://lab.test/a")),
            deed(protected, emails(&["a@example.com"])),
        ] {
            ground.proxy.clear();
            ground.refused(&action, ActErrorKind::Forbidden).await;
            assert_eq!(ground.proxy.writes(), Vec::<String>::new(), "{action:?}");
        }
    }
    let bea = ground.person("bea").await;
    let hand = |shield: Shield| {
        Accounts::new(Box::new(Synapse::new(ground.homeserver.clone())), shield, ground.homeserver.clone())
    };
    let named = Shield { patterns: vec![Pattern::new("@bea:.*").unwrap()], admins_are_open: false };
    let error = hand(named).perform(&bea.user, &AccountDeed::Lock { id: None }).await.unwrap_err();
    assert_eq!(error.kind, ActErrorKind::Forbidden);
    let open = Shield { patterns: Vec::new(), admins_are_open: true };
    let error = hand(open).perform(&root, &AccountDeed::Lock { id: None }).await.unwrap_err();
    assert!(error.kind == ActErrorKind::Forbidden && error.cause.contains("last server admin"), "{error}");
}

pub async fn an_erased_account_is_out_of_every_room_and_stays_so(ground: &Ground) {
    let rooms = [ground.space("left-one").await, ground.space("left-two").await];
    for (name, end) in [("eli", End::Erase), ("dora", End::Deactivate)] {
        let person = ground.person(name).await;
        for room in &rooms {
            ground.perform(&Action::Invite { room: at(room), user: person.user.clone(), text: "come".into() }).await;
            assert_eq!(person.join(room).await.0, 200);
        }
        let close = deed(&person.user, AccountDeed::Close(end));
        ground.refused(&close, ActErrorKind::Stale).await;
        ground.perform(&lock(&person.user)).await;
        ground.perform_to_its_end(&close).await;
        let seen = ground.homeserver.account(&person.user).await.unwrap().unwrap();
        assert!(seen.deactivated && seen.locked && seen.erased == (end == End::Erase), "{seen:?}");
        for room in &rooms {
            let seen = ground.homeserver.room(room).await.unwrap().unwrap();
            assert!(!seen.members[&person.user].is_in());
        }
        assert_eq!(writes_of(ground, &close).await, Vec::<String>::new(), "what has ended is not ended again");
        ground.refused(&lock(&person.user), ActErrorKind::Stale).await;
    }
}

pub async fn what_a_leaver_leaves_behind_is_handed_over_and_turned_down(ground: &Ground) {
    let (hob, kit, lou) = (ground.person("hob").await, ground.person("kit").await, ground.person("lou").await);
    let room_of = async |maker: &Person, body: Value, others: &[&Person]| {
        let room = maker.create_room(body).await;
        for person in others {
            assert_eq!(maker.invite(&room, &person.user).await.0, 200);
        }
        room
    };
    let mut rooms = Vec::new();
    for version in ["11", "12"] {
        let body = json!({ "preset": "private_chat", "room_version": version });
        let room = room_of(&hob, body, &[&kit, &lou]).await;
        for person in [&kit, &lou] {
            assert_eq!(person.join(&room).await.0, 200);
        }
        rooms.push(room);
    }
    let asked = room_of(&kit, json!({ "preset": "private_chat" }), &[&hob]).await;
    let equals = json!({ "users": { hob.user.as_str(): 100, kit.user.as_str(): 100 } });
    let body = json!({ "preset": "private_chat", "room_version": "11", "power_level_content_override": equals });
    let shared = room_of(&hob, body, &[&kit]).await;
    assert_eq!(kit.join(&shared).await.0, 200);

    let hand_over =
        |room: &RoomId, to: &UserId| deed(&hob.user, AccountDeed::HandOver { room: room.clone(), to: to.clone() });
    ground.refused(&hand_over(&rooms[0], &kit.user), ActErrorKind::Stale).await;
    ground.perform(&lock(&hob.user)).await;
    let mut observed = ground.homeserver.full().await.unwrap();
    let look = async |accounts: &Listed| {
        ground.homeserver.estate_of(&hob.user, &[].into(), accounts, Timestamp(7)).await.unwrap()
    };
    let estate = look(&observed.accounts).await;
    rooms.sort();
    assert_eq!(estate.rooms.keys().cloned().collect::<Vec<_>>(), rooms, "kit administers the other one, too");
    assert_eq!(estate.invited, [asked.clone()].into());
    observed.estates.insert(hob.user.clone(), estate);

    for room in &rooms {
        let heir = observed.estates[&hob.user].rooms[room].heir_of(&hob.user, &observed.accounts, &|_| false);
        assert_eq!(heir, Heir::Local(kit.user.clone()), "of equals the first by name");
        ground.refused(&hand_over(room, &user("root")), ActErrorKind::Stale).await;
        let action = hand_over(room, &kit.user);
        let outcome = ground.perform(&action).await;
        observed.simulate(&action, &outcome);
        let seen = ground.homeserver.room_from_outside(room).await.unwrap().unwrap();
        assert_eq!(observed.estates[&hob.user].rooms[room].power_levels, seen.power_levels);
        assert_eq!(writes_of(ground, &action).await, Vec::<String>::new(), "what was handed over is not again");
    }
    let turn_down = deed(&hob.user, AccountDeed::TurnDown { room: asked.clone(), text: "gone".into() });
    let outcome = ground.perform(&turn_down).await;
    observed.simulate(&turn_down, &outcome);
    ground.refused(&turn_down, ActErrorKind::Stale).await;
    let after = look(&observed.accounts).await;
    assert!(after.rooms.is_empty() && after.invited == observed.estates[&hob.user].invited, "{after:?}");
    let seen = ground.homeserver.room_from_outside(&asked).await.unwrap().unwrap();
    assert!(!seen.members[&hob.user].is_in());

    ground.perform_to_its_end(&deed(&hob.user, AccountDeed::Close(End::Erase))).await;
    for room in rooms.iter().chain([&shared]) {
        let (status, answer) = kit.send_state(room, "m.room.power_levels", "", levels_of(&kit, room).await).await;
        assert_eq!(status, 200, "kit administers {room}: {answer}");
    }
}

async fn levels_of(person: &Person, room: &RoomId) -> Value {
    let mut levels = person.state(room, "m.room.power_levels", "").await.unwrap();
    levels["users_default"] = json!(1);
    levels
}

fn emails(addresses: &[&str]) -> AccountDeed {
    let emails = Emails(addresses.iter().map(|address| (*address).to_owned()).collect());
    AccountDeed::Set(Attribute::Emails { digest: keyed("", &emails.0.join("\n")), emails })
}

fn name(name: &str) -> AccountDeed {
    AccountDeed::Set(Attribute::DisplayName(name.into()))
}

/// A photo uploaded to `url` takes the place of `standing`.
fn avatar(url: Option<&str>, standing: Option<&str>) -> AccountDeed {
    let (photo, uploaded, standing) = (Photo::of(b"GIF89a"), url.map(Into::into), standing.map(Into::into));
    AccountDeed::Set(Attribute::Avatar(Box::new(Avatar { photo, uploaded, standing })))
}

fn gone(url: &str) -> AccountDeed {
    AccountDeed::Set(Attribute::NoAvatar { url: url.into() })
}

async fn addresses(ground: &Ground, user: &UserId) -> Vec<String> {
    let record = ground.homeserver.account(user).await.unwrap().unwrap();
    let mut found: Vec<String> =
        record.threepids.iter().map(|threepid| format!("{}:{}", threepid.medium, threepid.address)).collect();
    found.sort();
    found
}

pub async fn only_differences_of_attributes_are_written(ground: &Ground) {
    let nan = ground.person("nan").await;
    ground.do_and_compare(&deed(&nan.user, name("Nan Example"))).await;
    let again = deed(&nan.user, name("Nan Example"));
    assert_eq!(writes_of(ground, &again).await, Vec::<String>::new());

    let path = format!("/_synapse/admin/v2/users/{}", escape(nan.user.as_str()));
    let phone = json!({ "threepids": [{ "medium": "msisdn", "address": "491701234567" },
                                      { "medium": "email", "address": "old@example.com" }] });
    ground.admin().await.must("PUT", &path, phone).await;
    ground.perform(&deed(&nan.user, emails(&["nan@example.com", "nan@example.org"]))).await;
    let expected = ["email:nan@example.com", "email:nan@example.org", "msisdn:491701234567"];
    assert_eq!(addresses(ground, &nan.user).await, expected, "the telephone stays");
    let same = deed(&nan.user, emails(&["nan@example.com", "nan@example.org"]));
    assert_eq!(writes_of(ground, &same).await, Vec::<String>::new());
    let error = ground.refused(&deed(&nan.user, emails(&["no address"])), ActErrorKind::Refused).await;
    assert!(!error.to_string().contains("no address"), "an error shows no address: {error}");
    assert_ne!(error.code.as_deref(), Some(ADDRESS_TAKEN), "nobody has it");
}

pub async fn what_usher_gave_is_taken_back_and_nothing_else(ground: &Ground) {
    let tab = ground.person("tab").await;
    let mut ledger = Ledger { key: "key".to_owned(), ..Ledger::default() };
    let action = deed(&tab.user, emails(&["tab@example.com", "tab@example.org"]));
    let step = Step { action, reason: Reason::AttributeDiffers, place: None, withheld: None, removal: None };
    ledger.foresee(&step, Timestamp(1));
    ground.perform(&step.action).await;
    let path = format!("/_synapse/admin/v2/users/{}", escape(tab.user.as_str()));
    let list = json!([{ "medium": "msisdn", "address": "491701234568" },
                      { "medium": "email", "address": "own@example.com" },
                      { "medium": "email", "address": "tab@example.org" }]);
    ground.admin().await.must("PUT", &path, json!({ "threepids": list })).await;
    let take_back = deed(&tab.user, AccountDeed::Set(Attribute::NoEmails(ledger.given(&tab.user).unwrap())));
    ground.perform(&take_back).await;
    assert_eq!(addresses(ground, &tab.user).await, ["email:own@example.com", "msisdn:491701234568"]);
    assert_eq!(writes_of(ground, &take_back).await, Vec::<String>::new());
}

pub async fn an_address_of_another_account_is_never_moved(ground: &Ground) {
    let (ola, pat) = (ground.person("ola").await, ground.person("pat").await);
    ground.perform(&deed(&ola.user, emails(&["wanted@example.com"]))).await;
    ground.proxy.clear();
    let error = ground
        .refused(&deed(&pat.user, emails(&["pat@example.com", "wanted@example.com"])), ActErrorKind::Refused)
        .await;
    assert_eq!(error.code.as_deref(), Some(ADDRESS_TAKEN));
    assert_eq!(ground.proxy.writes(), Vec::<String>::new());
    assert_eq!(addresses(ground, &ola.user).await, ["email:wanted@example.com"]);
    // The homeserver keeps both of these as one, and looks for an address as it is asked.
    let folded = |written: &str| {
        let normal = normal_emails([written]);
        emails(&normal.iter().map(String::as_str).collect::<Vec<_>>())
    };
    ground.perform(&deed(&ola.user, folded("STRASSE@example.com"))).await;
    ground.refused(&deed(&pat.user, folded("Straße@Example.com")), ActErrorKind::Refused).await;
    assert_eq!(addresses(ground, &ola.user).await, ["email:strasse@example.com"], "hers stays hers");
    assert_eq!(addresses(ground, &pat.user).await, Vec::<String>::new());
}

pub async fn an_avatar_takes_the_place_it_was_planned_for_and_no_other(ground: &Ground) {
    let pia = ground.person("pia").await;
    let upload = async |picture: &[u8]| ground.hand.upload(picture.into(), PictureKind::Gif).await.unwrap();
    let (one, two) = (upload(b"GIF89a one").await, upload(b"GIF89a two").await);
    assert!(one.starts_with("mxc://") && one != two, "{one} {two}");
    ground.refused(&deed(&pia.user, avatar(None, None)), ActErrorKind::Stale).await;
    ground.do_and_compare(&deed(&pia.user, avatar(Some(&one), None))).await;
    assert_eq!(writes_of(ground, &deed(&pia.user, avatar(Some(&one), None))).await, Vec::<String>::new());
    ground.do_and_compare(&deed(&pia.user, avatar(Some(&two), Some(&one)))).await;
    let profile = format!("/_matrix/client/v3/profile/{}", escape(pia.user.as_str()));
    assert_eq!(pia.must("GET", &profile, Value::Null).await["avatar_url"], two);

    let own = json!({ "avatar_url": "mxc://lab.test/own" });
    pia.must("PUT", &format!("{profile}/avatar_url"), own).await;
    ground.proxy.clear();
    for late in [avatar(Some(&one), Some(&two)), gone(&two)] {
        ground.refused(&deed(&pia.user, late), ActErrorKind::Stale).await;
    }
    assert_eq!(ground.proxy.writes(), Vec::<String>::new(), "what she chose meanwhile stays");
    ground.do_and_compare(&deed(&pia.user, gone("mxc://lab.test/own"))).await;
    assert_eq!(pia.must("GET", &profile, Value::Null).await.get("avatar_url"), None);
    assert_eq!(writes_of(ground, &deed(&pia.user, gone(&two))).await, Vec::<String>::new());
}

pub async fn leavers_are_mirrored_in_the_bots_account_data(ground: &Ground) {
    let leaver = Leaver {
        id: Some("id-1".into()),
        since: Timestamp(1),
        cause: Cause::Absent,
        clock: Timestamp(2),
        unsure: false,
        not_before: None,
        at_once: false,
        stage: Stage::Locked,
        silenced: true,
        due_seen: None,
        administers: [].into(),
    };
    let leavers: std::collections::BTreeMap<_, _> = [(user("gone"), leaver)].into();
    ground.do_and_compare(&Action::MirrorLeavers { leavers: leavers.clone() }).await;
    assert_eq!(ground.homeserver.full().await.unwrap().leavers, Known::Known(leavers));
    ground.do_and_compare(&Action::MirrorLeavers { leavers: [].into() }).await;
}
