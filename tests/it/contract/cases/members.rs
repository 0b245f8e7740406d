//! Memberships, and what refusals mean.

use serde_json::json;
use usher::actuate::{ActErrorKind, Actuator as _, LiveActuator};
use usher::ids::{RoomId, UserId};
use usher::matrix::registration::Registration;
use usher::matrix::{Homeserver, Promotion};
use usher::observed::{JoinRule, Member};
use usher::plan::{Action, StateChange};

use crate::contract::ground::{Ground, access, at, user};
use crate::lab::synapse::escape;

fn invite(room: &RoomId, user: &UserId) -> Action {
    Action::Invite { room: at(room), user: user.clone(), text: "you are in group staff".into() }
}

fn kick(room: &RoomId, user: &UserId) -> Action {
    Action::Kick { room: at(room), user: user.clone(), text: "you are in no group".into() }
}

/// Why somebody's membership is as it is, as everybody in the room sees it.
async fn reason(ground: &Ground, room: &RoomId, user: &UserId) -> String {
    let (room, user) = (escape(room.as_str()), escape(user.as_str()));
    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{user}");
    ground.raw_as_bot("GET", &path, json!({})).await["reason"].as_str().unwrap_or_default().to_owned()
}

pub async fn memberships_look_as_simulated(ground: &Ground) {
    let room = ground.space("people").await;
    let ann = ground.person("ann").await;
    ground.do_and_compare(&invite(&room, &ann.user)).await;
    ground.do_and_compare(&invite(&room, &ann.user)).await;
    assert_eq!(reason(ground, &room, &ann.user).await, "you are in group staff");
    ground.do_and_compare(&kick(&room, &ann.user)).await;
    assert_eq!(reason(ground, &room, &ann.user).await, "you are in no group");
    ground.do_and_compare(&invite(&room, &ann.user)).await;
    assert_eq!(ann.join(&room).await.0, 200);
    let event = ann.state(&room, "m.room.member", ann.user.as_str()).await.unwrap();
    assert_eq!(event["membership"], "join");
    ground.refused(&invite(&room, &ann.user), ActErrorKind::Stale).await;
    ground.do_and_compare(&kick(&room, &ann.user)).await;
    ground.refused(&kick(&room, &ann.user), ActErrorKind::Stale).await;

    let rule = JoinRule { rule: "knock_restricted".to_owned(), allow: [room.clone()].into() };
    ground.do_and_compare(&Action::SetState { room: at(&room), state: StateChange::JoinRule(rule) }).await;
    assert_eq!(ann.knock(&room).await.0, 200);
    ground.do_and_compare(&invite(&room, &ann.user)).await;
    assert_eq!(ann.leave(&room).await.0, 200);
    let seen = ground.homeserver.room(&room).await.unwrap().unwrap();
    assert!(
        matches!(&seen.members[&ann.user], Member::Leave { by, event } if *by == ann.user && event.as_str().starts_with('$'))
    );
    assert_eq!(ann.knock(&room).await.0, 200);
    ground.do_and_compare(&kick(&room, &ann.user)).await;
}

pub async fn refusals_are_classified(ground: &Ground) {
    let room = ground.space("refusals").await;
    let ben = ground.person("ben").await;
    let boss = ground.person("boss").await;
    let theirs = ben.create_room(json!({ "preset": "public_chat" })).await;

    // Banned by a human: we do not know until we look.
    let mut levels = ground.homeserver.room(&room).await.unwrap().unwrap().power_levels.unwrap();
    levels.users.insert(boss.user.clone(), 90);
    ground.perform(&Action::SetPowerLevels { room: at(&room), content: levels.content(), changes: Vec::new() }).await;
    ground.perform(&invite(&room, &boss.user)).await;
    assert_eq!(boss.join(&room).await.0, 200);
    // Kicked by a human: the read says by whom.
    ground.perform(&invite(&room, &ben.user)).await;
    assert_eq!(boss.kick(&room, &ben.user).await.0, 200);
    let seen = ground.homeserver.room(&room).await.unwrap().unwrap();
    assert!(matches!(&seen.members[&ben.user], Member::Leave { by, .. } if *by == boss.user));
    assert_eq!(boss.ban(&room, &ben.user).await.0, 200);
    ground.refused(&invite(&room, &ben.user), ActErrorKind::Stale).await;
    ground.refused(&kick(&room, &ben.user), ActErrorKind::Stale).await;

    // In a room that is not ours: not in it, then in it without any power.
    ground.refused(&invite(&theirs, &boss.user), ActErrorKind::Stale).await;
    let path = format!("/_matrix/client/v3/join/{}", escape(theirs.as_str()));
    ground.raw_as_bot("POST", &path, json!({})).await;
    ground.refused(&kick(&theirs, &ben.user), ActErrorKind::Forbidden).await;
    let rename = Action::SetState { room: at(&theirs), state: StateChange::Name("Ours".to_owned()) };
    ground.refused(&rename, ActErrorKind::Forbidden).await;
    ground.perform(&Action::Leave { room: at(&theirs) }).await;

    // A person who wants no invitations.
    let shy = ground.person("shy").await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.invite_permission_config", escape(shy.user.as_str()));
    shy.must("PUT", &path, json!({ "default_action": "block" })).await;
    let error = ground.refused(&invite(&room, &shy.user), ActErrorKind::Refused).await;
    assert_eq!(error.code.as_deref(), Some("M_INVITE_BLOCKED"));
}

pub async fn joins_need_the_bot_in_the_room_and_admin(ground: &Ground) {
    let room = ground.space("joined").await;
    let cat = ground.person("cat").await;
    let join = |room: &RoomId, user: &UserId| Action::Join { room: at(room), user: user.clone() };
    ground.refused(&join(&room, &cat.user), ActErrorKind::Forbidden).await;
    let admin = ground.admin().await;
    ground.homeserver.make_admin(&admin.token.into(), Promotion::SenderAndBot).await.unwrap();
    ground.do_and_compare(&join(&room, &cat.user)).await;
    ground.refused(&join(&room, &cat.user), ActErrorKind::Stale).await;
    let dan = ground.person("dan").await;
    ground.perform(&invite(&room, &dan.user)).await;
    ground.do_and_compare(&join(&room, &dan.user)).await;
    ground.refused(&join(&room, &user("nobody-at-all")), ActErrorKind::Stale).await;
    let private = cat.create_room(json!({})).await;
    let path = format!("/_synapse/admin/v1/suspend/{}", escape(dan.user.as_str()));
    ground.admin().await.must("PUT", &path, json!({ "suspend": true })).await;
    let other = ground.space("suspended").await;
    let error = ground.refused(&join(&other, &dan.user), ActErrorKind::Refused).await;
    assert_eq!(error.code.as_deref(), Some("M_USER_SUSPENDED"));
    ground.refused(&join(&private, &dan.user), ActErrorKind::Stale).await;
}

pub async fn an_unknown_token_is_fatal(ground: &Ground) {
    let registration = Registration { as_token: "not-the-token".to_owned().into(), ..ground.registration.clone() };
    let stranger = Homeserver::connect(access(ground.proxy.url()), &registration).await.unwrap();
    let error = LiveActuator::new(stranger).perform(&Action::RegisterBot, None).await.unwrap_err();
    assert_eq!(error.kind, ActErrorKind::Fatal, "{error}");
    assert!(!format!("{error} {error:?}").contains("not-the-token"));
}
