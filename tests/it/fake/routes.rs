//! The fake homeserver's endpoints: which path is answered by what.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::time::Instant;
use usher::ids::{RoomId, UserId};

use super::Shared;
use super::world::{Refusal, World, refuse};

/// Query parameters, decoded.
type Query = BTreeMap<String, String>;

/// Who asks.
struct Asker {
    user: UserId,
    /// Which registration's token it is, if one's.
    service: Option<usize>,
}

/// A request taken apart.
struct Call<'a> {
    path: Vec<&'a str>,
    query: Query,
    body: Value,
    asker: Asker,
}

pub async fn answer(shared: &Shared, parts: &Parts, token: &str, body: Value) -> Option<Response> {
    let decoded: Vec<String> = parts.uri.path().trim_start_matches('/').split('/').map(decode).collect();
    let query: Query = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    let path: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let result = if path == ["_matrix", "client", "v3", "sync"] {
        sync(shared, &query, token).await
    } else {
        let mut world = shared.world.lock().expect("the world");
        let result = dispatch(&mut world, parts.method.as_str(), path, query, body, token);
        drop(world);
        shared.changed.notify_waiters();
        result
    };
    Some(match result {
        Ok(answer) => axum::Json(answer).into_response(),
        Err((status, code, text)) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, axum::Json(json!({ "errcode": code, "error": text }))).into_response()
        }
    })
}

fn dispatch(
    world: &mut World,
    method: &str,
    path: Vec<&str>,
    query: Query,
    body: Value,
    token: &str,
) -> Result<Value, Refusal> {
    if path == ["_matrix", "client", "v3", "register"] {
        return register(world, &body, token);
    }
    let asker = asker(world, token, &query)?;
    let call = Call { path, query, body, asker };
    let route = call.path.clone();
    match route.as_slice() {
        ["_matrix", "client", "v3", "rooms", room, rest @ ..] => in_room(world, method, &(*room).into(), rest, &call),
        ["_matrix", "client", "v1", "rooms", room, "hierarchy"] => world.hierarchy(&(*room).into(), &call.asker.user),
        ["_matrix", "media", "v3", "upload"] if method == "POST" => {
            let number = world.next();
            Ok(json!({ "content_uri": format!("mxc://{}/media{number}", world.server) }))
        }
        ["_matrix", "client", "v3", rest @ ..] => client(world, method, rest, &call),
        ["_synapse", "admin", rest @ ..] => admin(world, method, rest, &call),
        _ => unknown(method, &call),
    }
}

fn unknown<T>(method: &str, call: &Call<'_>) -> Result<T, Refusal> {
    refuse(404, "M_UNRECOGNIZED", format!("the fake does not know {method} {}", call.path.join("/")))
}

fn asker(world: &World, token: &str, query: &Query) -> Result<Asker, Refusal> {
    use secrecy::ExposeSecret as _;
    if let Some(user) = world.tokens.get(token) {
        if world.accounts.get(user).is_some_and(|account| account.locked) {
            return refuse(401, "M_USER_LOCKED", "User account has been locked");
        }
        return Ok(Asker { user: user.clone(), service: None });
    }
    let service = world.registrations.iter().position(|service| service.as_token.expose_secret() == token);
    let Some(index) = service else { return refuse(401, "M_UNKNOWN_TOKEN", "Invalid access token passed.") };
    let service = &world.registrations[index];
    let sender = UserId::new(&service.sender_localpart, &world.server);
    let Some(user) = query.get("user_id").map(|user| UserId::from(user.as_str())) else {
        return Ok(Asker { user: sender, service: Some(index) });
    };
    if user != sender && !service.admits(&user) {
        return refuse(403, "M_FORBIDDEN", format!("Application service cannot masquerade as this user ({user})."));
    }
    if !world.accounts.contains_key(&user) {
        return refuse(403, "M_FORBIDDEN", format!("Application service has not registered this user ({user})."));
    }
    Ok(Asker { user, service: Some(index) })
}

fn register(world: &mut World, body: &Value, token: &str) -> Result<Value, Refusal> {
    let user = UserId::new(body["username"].as_str().unwrap_or_default(), &world.server);
    if body["type"] == "m.login.application_service" {
        let service = asker(world, token, &Query::new())?.service;
        let Some(service) = service.map(|index| &world.registrations[index]) else {
            return refuse(403, "M_FORBIDDEN", "not an application service");
        };
        if service.sender_localpart != user.localpart() && !service.admits(&user) {
            return refuse(400, "M_EXCLUSIVE", "Invalid user localpart for this application service.");
        }
        let owner = service.id.clone();
        world.add_account(&user)?;
        world.account(&user).service = Some(owner);
        return Ok(json!({ "user_id": user }));
    }
    world.add_account(&user)?;
    let token = format!("token-{}", world.next());
    world.tokens.insert(token.clone(), user.clone());
    Ok(json!({ "user_id": user, "access_token": token }))
}

fn client(world: &mut World, method: &str, path: &[&str], call: &Call<'_>) -> Result<Value, Refusal> {
    let me = &call.asker.user;
    match (method, path) {
        ("GET", ["account", "whoami"]) => Ok(json!({ "user_id": me })),
        ("GET", ["profile", user]) => match world.accounts.get(*user) {
            Some(account) => {
                let mut profile = json!({ "displayname": account.display_name });
                if let Some(url) = &account.avatar {
                    profile["avatar_url"] = json!(url);
                }
                Ok(profile)
            }
            None => refuse(404, "M_NOT_FOUND", "User not found"),
        },
        ("PUT", ["profile", user, "displayname"]) if *user == me.as_str() => {
            world.account(me).display_name = call.body["displayname"].as_str().map(|name| name.trim().to_owned());
            Ok(json!({}))
        }
        ("PUT", ["profile", user, "avatar_url"]) if *user == me.as_str() => {
            world.account(me).hang(call.body["avatar_url"].as_str().unwrap_or_default());
            Ok(json!({}))
        }
        ("POST", ["createRoom"]) => world.create(me, &call.body).map(|room| json!({ "room_id": room })),
        ("GET", ["joined_rooms"]) => {
            let joined = world.rooms.iter().filter(|(_, room)| room.membership(me) == Some("join"));
            Ok(json!({ "joined_rooms": joined.map(|(id, _)| id).collect::<Vec<_>>() }))
        }
        ("POST", ["join", room]) => world.join(&(*room).into(), me).map(|()| json!({ "room_id": room })),
        ("POST", ["knock", room]) => world.knock(&(*room).into(), me).map(|()| json!({ "room_id": room })),
        (_, ["directory", "room", alias]) => directory(world, method, alias, call),
        ("GET", ["pushers"]) => Ok(json!({ "pushers": world.account(me).pushers })),
        ("POST", ["pushers", "set"]) => Ok(world.set_pusher(me, &call.body)),
        ("GET", ["user", user, "account_data", kind]) if *user == me.as_str() => {
            match world.account(me).data.get(*kind) {
                Some(data) => Ok(data.clone()),
                None => refuse(404, "M_NOT_FOUND", "Account data not found"),
            }
        }
        ("PUT", ["user", user, "account_data", kind]) if *user == me.as_str() && kind.starts_with("dev.") => {
            world.account(me).data.insert((*kind).to_owned(), call.body.clone());
            Ok(json!({}))
        }
        ("PUT", ["user", _, "account_data", "m.invite_permission_config"]) => {
            world.account(me).blocks_invites = call.body["default_action"] == "block";
            Ok(json!({}))
        }
        _ => unknown(method, call),
    }
}

fn directory(world: &mut World, method: &str, alias: &str, call: &Call<'_>) -> Result<Value, Refusal> {
    if method == "GET" {
        return match world.aliases.get(alias) {
            Some(room) => Ok(json!({ "room_id": room, "servers": [world.server] })),
            None => refuse(404, "M_NOT_FOUND", format!("Room alias {alias} not found")),
        };
    }
    let reserved = |service: &usher::matrix::registration::Registration| {
        service.aliases.iter().any(|expression| fancy_regex::Regex::new(expression).unwrap().is_match(alias).unwrap())
    };
    let own = call.asker.service.map(|index| reserved(&world.registrations[index]));
    if own.is_some_and(|own| !own) || (own.is_none() && world.registrations.iter().any(reserved)) {
        return refuse(400, "M_EXCLUSIVE", "This application service has not reserved this kind of alias.");
    }
    match method {
        "PUT" if world.aliases.contains_key(alias) => {
            refuse(409, "M_UNKNOWN", format!("Room alias {alias} already exists"))
        }
        "PUT" => {
            let room = call.body["room_id"].as_str().unwrap_or_default();
            world.aliases.insert(alias.to_owned(), room.into());
            Ok(json!({}))
        }
        "DELETE" => match world.aliases.remove(alias) {
            Some(_) => Ok(json!({})),
            None => refuse(404, "M_NOT_FOUND", "Unknown room alias"),
        },
        _ => unknown(method, call),
    }
}

fn in_room(world: &mut World, method: &str, room: &RoomId, path: &[&str], call: &Call<'_>) -> Result<Value, Refusal> {
    let me = &call.asker.user;
    let whom: UserId = call.body["user_id"].as_str().unwrap_or_default().into();
    let reason = &call.body["reason"];
    match (method, path) {
        ("GET", ["state", rest @ ..]) => {
            let held = world.room(room)?;
            if held.membership(me) != Some("join") {
                return refuse(403, "M_FORBIDDEN", format!("User {me} not in room {room}"));
            }
            match rest {
                [] => Ok(held.state.values().map(super::world::Event::json).collect()),
                [kind, key @ ..] => match held.content(kind, key.first().copied().unwrap_or_default()) {
                    Some(content) => Ok(content.clone()),
                    None => refuse(404, "M_NOT_FOUND", "Event not found."),
                },
            }
        }
        ("PUT", ["state", "m.room.member", user]) if *user == me.as_str() && call.body["membership"] == "leave" => {
            world.leave(room, me)?;
            Ok(json!({ "event_id": world.set(room, me, "m.room.member", user, call.body.clone()) }))
        }
        ("PUT", ["state", kind, key @ ..]) => {
            let key = key.first().copied().unwrap_or_default();
            world.may_set(room, me, kind, key, &call.body)?;
            Ok(json!({ "event_id": world.set(room, me, kind, key, call.body.clone()) }))
        }
        ("POST", ["send", kind]) => {
            let event = super::world::Event {
                kind: (*kind).to_owned(),
                state_key: None,
                sender: me.clone(),
                id: String::new(),
                content: call.body.clone(),
                before: Value::Null,
            };
            Ok(json!({ "event_id": world.append(room, event) }))
        }
        ("POST", ["invite"]) => world.invite(room, me, &whom, reason).map(|()| json!({})),
        ("POST", ["kick"]) => world.kick(room, me, &whom, reason).map(|()| json!({})),
        ("POST", ["ban"]) => world.ban(room, me, &whom, reason).map(|()| json!({})),
        ("POST", ["leave"]) => world.leave(room, me).map(|()| json!({})),
        ("POST", ["join"]) => world.join(room, me).map(|()| json!({ "room_id": room })),
        ("POST", ["forget"]) => match world.room(room)?.membership(me) {
            Some("join" | "invite") => refuse(400, "M_UNKNOWN", format!("User {me} is in room {room}")),
            _ => Ok(json!({})),
        },
        ("POST", ["upgrade"]) => {
            let version = call.body["new_version"].as_str().unwrap_or_default();
            world.upgrade(room, me, version).map(|successor| json!({ "replacement_room": successor }))
        }
        _ => unknown(method, call),
    }
}

fn admin(world: &mut World, method: &str, path: &[&str], call: &Call<'_>) -> Result<Value, Refusal> {
    if !world.accounts.get(&call.asker.user).is_some_and(|account| account.admin) {
        return refuse(403, "M_FORBIDDEN", "You are not a server admin");
    }
    match (method, path) {
        ("GET", ["v2", "users"]) => Ok(users(world, &call.query)),
        ("GET", ["v1", "rooms", room, "state"]) => world.state_for_admin(&(*room).into()),
        ("POST", ["v1", "rooms", room, "make_room_admin"]) => {
            let user = call.body["user_id"].as_str().unwrap_or(call.asker.user.as_str()).into();
            world.make_room_admin(&(*room).into(), &user)
        }
        ("PUT", ["v2", "users", user]) => world.change_account(&(*user).into(), &call.body),
        ("GET", ["v2", "users", user]) => match world.accounts.get(*user) {
            Some(account) => Ok(account.json(&(*user).into())),
            None => refuse(404, "M_NOT_FOUND", "User not found"),
        },
        ("POST", ["v1", "deactivate", user]) => world.deactivate(&(*user).into(), call.body["erase"] == true),
        ("GET", ["v1", "users", user, "memberships"]) => Ok(world.memberships_of(&(*user).into())),
        ("GET", ["v1", "users", user, "joined_rooms"]) => Ok(world.joined_rooms_of(&(*user).into())),
        ("GET", ["v1", "auth_providers", provider, "users", id]) => world.owner_of_link(provider, id),
        ("GET", ["v1", "threepid", medium, "users", address]) => world.owner_of(medium, address),
        ("PUT", ["v1", "users", user, "admin"]) => match world.accounts.get_mut(*user) {
            Some(account) => {
                account.admin = call.body["admin"].as_bool().unwrap_or_default();
                Ok(json!({}))
            }
            None => refuse(404, "M_NOT_FOUND", "No row found"),
        },
        ("PUT", ["v1", "suspend", user]) => {
            world.account(&(*user).into()).suspended = call.body["suspend"].as_bool().unwrap_or_default();
            Ok(json!({}))
        }
        ("POST", ["v1", "join", room]) => {
            let room = RoomId::from(*room);
            let user: UserId = call.body["user_id"].as_str().unwrap_or_default().into();
            if !world.accounts.contains_key(&user) {
                return refuse(404, "M_NOT_FOUND", "User not found");
            }
            if world.room(&room)?.join_rule() != "public" {
                world.invite(&room, &call.asker.user, &user, &Value::Null)?;
            }
            world.join(&room, &user).map(|()| json!({ "room_id": room }))
        }
        _ => unknown(method, call),
    }
}

fn users(world: &World, query: &Query) -> Value {
    let flag = |name: &str| query.get(name).is_some_and(|value| value == "true");
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<usize>().ok());
    let mut users: Vec<_> = world.accounts.iter().collect();
    users.retain(|(user, account)| {
        (!account.locked || flag("locked"))
            && (!account.deactivated || flag("deactivated"))
            && (!flag("admins") || account.admin)
            // On the list this parameter is the filter, whoever asks.
            && query.get("user_id").is_none_or(|part| user.as_str().contains(part.as_str()))
    });
    if query.get("order_by").is_some_and(|by| by == "creation_ts") {
        users.sort_by_key(|(_, account)| account.created);
    }
    if query.get("dir").is_some_and(|dir| dir == "b") {
        users.reverse();
    }
    let (from, limit, total) = (number("from").unwrap_or(0), number("limit").unwrap_or(100), users.len());
    let page: Vec<Value> = users
        .into_iter()
        .skip(from)
        .take(limit)
        .map(|(user, account)| {
            json!({ "name": user, "displayname": account.display_name, "avatar_url": account.avatar,
                    "admin": account.admin, "locked": account.locked, "deactivated": account.deactivated, "creation_ts": account.created })
        })
        .collect();
    let mut answer = json!({ "total": total, "users": page });
    if from + limit < total {
        answer["next_token"] = json!((from + limit).to_string());
    }
    answer
}

/// Waits for something that concerns the asker, as long as `timeout` says.
async fn sync(shared: &Shared, query: &Query, token: &str) -> Result<Value, Refusal> {
    let timeout = query.get("timeout").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(timeout);
    let filter: Value = query.get("filter").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        {
            let world = shared.world.lock().expect("the world");
            let me = asker(&world, token, query)?.user;
            let position = json!(format!("s{}", world.stream.len()));
            let Some(since) = query.get("since") else {
                let invited = world.rooms.iter().filter(|(_, room)| room.membership(&me) == Some("invite"));
                let invited: serde_json::Map<String, Value> =
                    invited.map(|(id, _)| (id.to_string(), json!({ "invite_state": { "events": [] } }))).collect();
                return Ok(json!({ "next_batch": position, "rooms": { "invite": invited } }));
            };
            let Some(since) = since.strip_prefix('s').and_then(|number| number.parse::<usize>().ok()) else {
                return refuse(400, "M_UNKNOWN", "Invalid stream token");
            };
            let rooms = since_position(&world, &me, since, &filter);
            let nothing = rooms
                .as_object()
                .is_none_or(|rooms| rooms.values().all(|kind| kind.as_object().is_none_or(serde_json::Map::is_empty)));
            if !nothing || Instant::now() >= deadline {
                return Ok(json!({ "next_batch": position, "rooms": rooms }));
            }
        }
        let _ = tokio::time::timeout_at(deadline, changed).await;
    }
}

fn since_position(world: &World, me: &UserId, since: usize, filter: &Value) -> Value {
    let timeline = &filter["room"]["timeline"];
    let limit = timeline["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(10);
    let wanted = |kind: &str| timeline["types"].as_array().is_none_or(|types| types.iter().any(|t| t == kind));
    let mut news: BTreeMap<&RoomId, Vec<&super::world::Event>> = BTreeMap::new();
    for (room, event) in world.stream.iter().skip(since) {
        news.entry(room).or_default().push(event);
    }
    let mut rooms = json!({ "join": {}, "leave": {}, "invite": {} });
    for (id, events) in news {
        let about_me = |event: &&&super::world::Event| {
            event.kind == "m.room.member" && event.state_key.as_deref() == Some(me.as_str())
        };
        let mine = events.iter().rev().find(about_me);
        match world.rooms[id].membership(me) {
            Some("join") => {
                let shown: Vec<Value> =
                    events.iter().filter(|event| wanted(&event.kind)).map(|event| event.json()).collect();
                if !shown.is_empty() {
                    let limited = shown.len() > limit;
                    let shown = &shown[shown.len().saturating_sub(limit)..];
                    rooms["join"][id.as_str()] = json!({ "timeline": { "events": shown, "limited": limited } });
                }
            }
            Some("invite") => {
                if let Some(event) = mine {
                    rooms["invite"][id.as_str()] = json!({ "invite_state": { "events": [event.json()] } });
                }
            }
            _ if mine.is_some() => rooms["leave"][id.as_str()] = json!({}),
            _ => {}
        }
    }
    rooms
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits: String = rest.by_ref().take(2).map(char::from).collect();
        bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
