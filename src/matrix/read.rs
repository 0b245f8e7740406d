//! Reads: the whole homeserver as far as usher sees it, one room, the newest accounts, where aliases point.
//!
//! A full read takes one request per joined room, one per thousand accounts and three more. What could not be read is never taken for
//! empty: a full read fails, or names the rooms it could not read ([`Homeserver::reread`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::transport::Answer;
use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{Interner, Key, RoomId, UserId};
use crate::observed::{Account, Accounts, Known, Observed, Room, StateEvent};

/// Reads in flight at once: Synapse answers reads on one core; more would only queue there.
const CONCURRENT_READS: usize = 8;
/// Of many things of a kind so many in a row may be the homeserver's trouble with just them.
const MOST_FAILURES: usize = 8;
/// Accounts per page of the user list: 1000 cost Synapse about 40 ms.
const ACCOUNTS_PER_PAGE: u32 = 1000;
/// Most pages read: ten million accounts.
const MOST_PAGES: u32 = 10_000;
/// Accounts looked at in an idle poll; more new ones than that between two polls show as a gap.
const NEWEST_ACCOUNTS: usize = 100;

const USERS: &str = "/_synapse/admin/v2/users";

/// Accounts that appeared since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewAccounts {
    pub people: BTreeMap<UserId, Account>,
    /// There may be more than one look shows, or some are gone: read the whole list ([`Homeserver::accounts`]).
    pub gap: bool,
}

/// Accounts asked for one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    pub exist: BTreeSet<UserId>,
    pub absent: BTreeSet<UserId>,
}

/// A full read that may lack rooms.
#[derive(Debug)]
pub struct Reread {
    pub observed: Observed,
    /// Rooms that could not be read; `observed` has them as they were before, if they were known.
    pub unread: Vec<(RoomId, MatrixError)>,
}

impl Homeserver {
    /// Reads everything.
    ///
    /// # Errors
    /// When anything could not be read.
    pub async fn full(&self) -> Result<Observed, MatrixError> {
        let Reread { observed, unread } = self.reread(None).await?;
        match unread.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(observed),
        }
    }

    /// Reads everything; a room that cannot be read stays as it was in `before` (S-82).
    ///
    /// # Errors
    /// When the accounts, the bot or its list of rooms could not be read.
    pub async fn reread(&self, before: Option<&Observed>) -> Result<Reread, MatrixError> {
        let joined = self.joined_rooms().await?;
        let mut observed = Observed {
            server: self.identity.server.clone(),
            bot: self.bot().clone(),
            sender: self.sender().clone(),
            bot_registered: Known::Known(joined.is_some()),
            bot_display_name: Known::Unknown,
            rooms: BTreeMap::new(),
            outside: BTreeMap::new(),
            unread: BTreeSet::new(),
            aliases: BTreeMap::new(),
            adoptable: BTreeMap::new(),
            accounts: self.accounts().await?.unwrap_or_default(),
            leavers: Known::Unknown,
            estates: before.map(|before| before.estates.clone()).unwrap_or_default(),
        };
        let Some(joined) = joined else { return Ok(Reread { observed, unread: Vec::new() }) };
        observed.bot_display_name = Known::Known(self.display_name(self.bot()).await?.flatten());
        // Written by the bot alone, so it is what was read or written last.
        observed.leavers = match before.map(|before| &before.leavers) {
            Some(Known::Known(leavers)) => Known::Known(leavers.clone()),
            Some(Known::Unknown) | None => Known::Known(self.mirrored_leavers().await?),
        };
        let mut interner = Interner::default();
        let mut unread = Vec::new();
        let mut states = stream::iter(joined)
            .map(|room| async move {
                let state = self.state(&room).await;
                (room, state)
            })
            .buffer_unordered(CONCURRENT_READS);
        while let Some((id, state)) = states.next().await {
            match state.and_then(|answer| self.room_from(&id, answer.as_ref(), &mut interner)) {
                Ok(Some(room)) => {
                    observed.rooms.insert(id, room);
                }
                // Left in the meantime.
                Ok(None) => {}
                Err(error) if error.trouble == Trouble::UnknownToken => return Err(error),
                Err(error) => {
                    match before.and_then(|before| before.rooms.get(&id)) {
                        Some(room) => drop(observed.rooms.insert(id.clone(), room.clone())),
                        None => drop(observed.unread.insert(id.clone())),
                    }
                    unread.push((id, error));
                }
            }
        }
        Ok(Reread { observed, unread })
    }

    /// One room, read again; `None`: the bot is not in it.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn room(&self, room: &RoomId) -> Result<Option<Room>, MatrixError> {
        let answer = self.state(room).await?;
        self.room_from(room, answer.as_ref(), &mut Interner::default())
    }

    /// A room the bot is not in, as it was when the bot left. `None`: there is no such room, or the bot never was in it, or was banned
    /// from it or asked back into it.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn room_when_left(&self, room: &RoomId) -> Result<Option<Room>, MatrixError> {
        let Some(answer) = self.state(room).await? else { return Ok(None) };
        let events: Vec<RawEvent> = answer.json(&attempt_of(room))?;
        let events = events.into_iter().filter_map(RawEvent::state_event);
        Ok(Some(Room::from_state(self.bot(), &self.identity.instance, events, &mut Interner::default())))
    }

    /// Rooms the bot is joined to; `None`: it is not registered.
    async fn joined_rooms(&self) -> Result<Option<Vec<RoomId>>, MatrixError> {
        #[derive(Deserialize)]
        struct Joined {
            joined_rooms: Vec<RoomId>,
        }
        let attempt = "list the bot's rooms";
        let request = Request::get("/_matrix/client/v3/joined_rooms", &[]).to(attempt);
        match self.call_as_bot(request).await {
            Ok(answer) => Ok(Some(answer.json::<Joined>(attempt)?.joined_rooms)),
            // The refusal of a user outside the namespaces has the same code and is an error of set-up.
            Err(error) if error.trouble == Trouble::Forbidden && error.cause.contains("has not registered") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A room's raw state; `None`: the bot is not in it.
    async fn state(&self, room: &RoomId) -> Result<Option<Answer>, MatrixError> {
        let request = Request::get("/_matrix/client/v3/rooms/{}/state", &[room.as_str()]).to(attempt_of(room));
        match self.call_as_bot(request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn room_from(
        &self,
        id: &RoomId,
        answer: Option<&Answer>,
        interner: &mut Interner,
    ) -> Result<Option<Room>, MatrixError> {
        let Some(answer) = answer else { return Ok(None) };
        let events: Vec<RawEvent> = answer.json(&attempt_of(id))?;
        let events = events.into_iter().filter_map(RawEvent::state_event);
        let room = Room::from_state(self.bot(), &self.identity.instance, events, interner);
        // A room left in the meantime answers with its state at that time.
        let joined = room.members.get(self.bot()) == Some(&crate::observed::Member::Join);
        Ok(joined.then_some(room))
    }

    /// A user's display name; outer `None`: no such profile.
    async fn display_name(&self, user: &UserId) -> Result<Option<Option<String>>, MatrixError> {
        let attempt = format!("read the profile of {user}");
        let request = Request::get("/_matrix/client/v3/profile/{}", &[user.as_str()]).to(&attempt);
        match self.call(request).await {
            Ok(answer) => {
                let profile: Value = answer.json(&attempt)?;
                Ok(Some(profile.get("displayname").and_then(Value::as_str).map(str::to_owned)))
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All accounts, locked and deactivated ones too; `None` without admin rights.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn accounts(&self) -> Result<Option<Accounts>, MatrixError> {
        let mut accounts = Accounts { listed: true, ..Accounts::default() };
        let mut from = "0".to_owned();
        for _ in 0..MOST_PAGES {
            let request = users(ACCOUNTS_PER_PAGE).with("from", &from);
            let Some(page) = self.account_page(request).await? else { return Ok(None) };
            accounts.people.extend(page.accounts());
            match page.next_token {
                Some(Value::String(next)) => from = next,
                Some(Value::Number(next)) => from = next.to_string(),
                _ => break,
            }
        }
        Ok(Some(accounts))
    }

    /// Accounts made since `known` was read: one request. `None` without admin rights.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn accounts_since(&self, known: &Accounts) -> Result<Option<NewAccounts>, MatrixError> {
        let request =
            users(u32::try_from(NEWEST_ACCOUNTS).unwrap_or(u32::MAX)).with("order_by", "creation_ts").with("dir", "b");
        let Some(page) = self.account_page(request).await? else { return Ok(None) };
        let mut people: BTreeMap<UserId, Account> = page.accounts().collect();
        let shown = people.len();
        people.retain(|user, account| known.people.get(user) != Some(account));
        let added = people.keys().filter(|user| !known.people.contains_key(*user)).count();
        let all_unknown = added == shown && shown >= NEWEST_ACCOUNTS;
        let gap = all_unknown || page.total != known.people.len() + added;
        Ok(Some(NewAccounts { people, gap }))
    }

    /// The server admins: one request. `None` without admin rights.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn admins(&self) -> Result<Option<BTreeSet<UserId>>, MatrixError> {
        Ok(self.admin_accounts().await?.map(|admins| admins.into_keys().collect()))
    }

    /// The server admins' accounts: one request. `None` without admin rights.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn admin_accounts(&self) -> Result<Option<BTreeMap<UserId, Account>>, MatrixError> {
        let page = self.account_page(users(ACCOUNTS_PER_PAGE).with("admins", "true")).await?;
        Ok(page.map(|page| page.accounts().filter(|(_, account)| account.admin).collect()))
    }

    /// The server admins who can log in: one request.
    ///
    /// # Errors
    /// When the homeserver is away or refuses the list.
    pub async fn usable_admins(&self) -> Result<BTreeSet<UserId>, MatrixError> {
        let attempt = "list the server admins";
        let request = users(ACCOUNTS_PER_PAGE).with("admins", "true").to(attempt);
        let page: AccountPage = self.call_admin(request).await?.json(attempt)?;
        let usable = |account: &Account| account.admin && !account.locked && !account.deactivated;
        Ok(page.accounts().filter(|(_, account)| usable(account)).map(|(user, _)| user).collect())
    }

    async fn account_page(&self, request: Request) -> Result<Option<AccountPage>, MatrixError> {
        let attempt = "read the user list";
        match self.call_admin(request.to(attempt)).await {
            Ok(answer) => answer.json(attempt).map(Some),
            Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `people` exist, one request each: for the rung without a user list.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn probe_accounts(&self, people: &BTreeSet<UserId>) -> Result<Probed, MatrixError> {
        let found: Vec<(UserId, bool)> = stream::iter(people.iter().cloned())
            .map(|user| async move { self.display_name(&user).await.map(|profile| (user, profile.is_some())) })
            .buffer_unordered(CONCURRENT_READS)
            .try_collect()
            .await?;
        let (exist, absent): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, exists)| *exists);
        let users = |list: Vec<(UserId, bool)>| list.into_iter().map(|(user, _)| user).collect();
        Ok(Probed { exist: users(exist), absent: users(absent) })
    }

    /// The accounts of `people` as they are now, and whether another application service owns them, which no list tells: one request
    /// each, so ask only about removal candidates (S-102). Of each whether there is an account, or why it could not be looked at.
    ///
    /// # Errors
    /// When more of them fail than single accounts may: the homeserver is away.
    pub(crate) async fn accounts_of(
        &self,
        people: &BTreeSet<UserId>,
    ) -> Result<Each<UserId, Option<Account>>, MatrixError> {
        let attempt = "ask who owns an account";
        let look = |user: UserId| async move {
            let request = Request::get("/_synapse/admin/v2/users/{}", &[user.as_str()]).to(attempt);
            let found = match self.call_admin(request).await {
                Ok(answer) => answer.json::<RawAccount>(attempt).map(|account| Some(account.account())),
                Err(error) if error.trouble == Trouble::NotFound => Ok(None),
                Err(error) => Err(error),
            };
            (user, found)
        };
        each(people.iter().cloned().map(look)).await
    }

    /// Where the fencing aliases of `keys` point; those that point nowhere are left out. One request each: ask only for keys that
    /// have no room.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn aliases_for(&self, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, RoomId>, MatrixError> {
        let identity = &self.identity;
        let found: Vec<(Key, Option<RoomId>)> = stream::iter(keys.iter().cloned())
            .map(|key| async move {
                let alias = key.alias(&identity.instance, &identity.server);
                self.resolve(&alias).await.map(|room| (key, room))
            })
            .buffer_unordered(CONCURRENT_READS)
            .try_collect()
            .await?;
        Ok(found.into_iter().filter_map(|(key, room)| Some((key, room?))).collect())
    }

    /// `user`'s membership of a room the bot is in: `join`, `invite`, `leave`, …; `None`: none, or the bot may not look.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn membership(&self, room: &RoomId, user: &UserId) -> Result<Option<String>, MatrixError> {
        let content = self.state_content(room, "m.room.member", user.as_str()).await?;
        Ok(content.and_then(|content| content.get("membership").and_then(Value::as_str).map(str::to_owned)))
    }

    /// The content of one state event of a room the bot is in; `None`: none, or the bot may not look.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn state_content(
        &self,
        room: &RoomId,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Value>, MatrixError> {
        let attempt = format!("read {kind} {state_key} of {room}");
        let path = [room.as_str(), kind, state_key];
        let request = Request::get("/_matrix/client/v3/rooms/{}/state/{}/{}", &path).to(&attempt);
        match self.call_as_bot(request).await {
            Ok(answer) => answer.json(&attempt).map(Some),
            Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Reads many things of a kind, some at a time: one that cannot be read keeps only itself from being known (S-82).
///
/// # Errors
/// When the token is not accepted, or so many fail in a row that the homeserver is away.
pub(crate) async fn each<K: Ord, V, F>(reads: impl Iterator<Item = F>) -> Result<Each<K, V>, MatrixError>
where
    F: Future<Output = (K, Result<V, MatrixError>)>,
{
    let mut found = BTreeMap::new();
    let mut in_a_row = 0;
    let mut reads = stream::iter(reads).buffer_unordered(CONCURRENT_READS);
    while let Some((key, answer)) = reads.next().await {
        match &answer {
            Ok(_) => in_a_row = 0,
            Err(error) => {
                in_a_row += 1;
                if in_a_row > MOST_FAILURES || error.trouble == Trouble::UnknownToken {
                    return answer.map(|_| found);
                }
            }
        }
        found.insert(key, answer);
    }
    Ok(found)
}

/// What came of each of many reads.
pub(crate) type Each<K, V> = BTreeMap<K, Result<V, MatrixError>>;

fn attempt_of(room: &RoomId) -> String {
    format!("read the state of {room}")
}

/// The user list with everybody on it: it hides locked and deactivated accounts unless asked, and guests must be left out where
/// accounts are delegated.
fn users(limit: u32) -> Request {
    Request::get(USERS, &[])
        .with("limit", &limit.to_string())
        .with("guests", "false")
        .with("locked", "true")
        .with("deactivated", "true")
}

/// An event as the client API shows it, without what usher does not read.
#[derive(Deserialize)]
pub(super) struct RawEvent {
    #[serde(rename = "type")]
    kind: String,
    state_key: Option<String>,
    sender: UserId,
    #[serde(default)]
    event_id: String,
    #[serde(default, deserialize_with = "readable")]
    content: Value,
    #[serde(default)]
    unsigned: Unsigned,
}

#[derive(Default, Deserialize)]
struct Unsigned {
    #[serde(default, deserialize_with = "readable")]
    prev_content: Value,
}

/// An event's content, key by key: what cannot be read (nested deeper than any reader goes) is left out, and hides neither the other
/// keys nor the other events.
fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    if let Ok(value) = serde_json::from_str(raw.get()) {
        return Ok(value);
    }
    let keys: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
    let read = |(key, value): (String, &RawValue)| Some((key, serde_json::from_str(value.get()).ok()?));
    Ok(Value::Object(keys.into_iter().filter_map(read).collect()))
}

impl RawEvent {
    /// `None` for what is no state event, or none that usher reads.
    pub(super) fn state_event(self) -> Option<StateEvent> {
        if !StateEvent::READ_TYPES.contains(&self.kind.as_str()) {
            return None;
        }
        Some(StateEvent {
            kind: self.kind,
            state_key: self.state_key?,
            sender: self.sender,
            event_id: self.event_id.into(),
            content: self.content,
        })
    }

    /// Whether this is `user` entering the room, not changing their name in it.
    pub(super) fn is_entry_of(&self, user: &UserId) -> bool {
        let membership = |content: &Value| content.get("membership").and_then(Value::as_str) == Some("join");
        self.kind == "m.room.member"
            && self.state_key.as_deref() == Some(user.as_str())
            && membership(&self.content)
            && !membership(&self.unsigned.prev_content)
    }
}

#[derive(Deserialize)]
struct AccountPage {
    users: Vec<RawAccount>,
    #[serde(default)]
    next_token: Option<Value>,
    #[serde(default)]
    total: usize,
}

impl AccountPage {
    fn accounts(&self) -> impl Iterator<Item = (UserId, Account)> {
        self.users.iter().map(|raw| (raw.name.clone(), raw.account()))
    }
}

#[derive(Deserialize)]
struct RawAccount {
    name: UserId,
    #[serde(default)]
    admin: Value,
    #[serde(default)]
    locked: Value,
    #[serde(default)]
    deactivated: Value,
    #[serde(default)]
    displayname: Option<String>,
    #[serde(default)]
    avatar_url: Option<String>,
    /// Only where one account is asked for.
    #[serde(default)]
    appservice_id: Option<String>,
}

impl RawAccount {
    fn account(&self) -> Account {
        Account {
            admin: truth(&self.admin),
            locked: truth(&self.locked),
            deactivated: truth(&self.deactivated),
            foreign_service: self.appservice_id.is_some(),
            display_name: self.displayname.clone(),
            avatar: picture(self.avatar_url.as_deref()),
        }
    }
}

/// No avatar comes as nothing or as an empty text.
pub(super) fn picture(url: Option<&str>) -> Option<Arc<str>> {
    url.filter(|url| !url.is_empty()).map(Arc::from)
}

/// Flags come as booleans or, from older servers, as numbers.
pub(super) fn truth(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_i64().is_some_and(|number| number != 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn content_too_deep_to_read_hides_neither_its_other_keys_nor_its_neighbours() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let body = format!(
            r#"[{{"type": "m.room.member", "state_key": "@mal:x", "sender": "@mal:x", "event_id": "$1",
                 "content": {{"membership": "join", "x": {deep}}},
                 "unsigned": {{"prev_content": {{"membership": "invite", "x": {deep}}}}}}},
                {{"type": "m.room.name", "state_key": "", "sender": "@mal:x", "content": {deep}}},
                {{"type": "m.room.topic", "state_key": "", "sender": "@mal:x", "content": {{"topic": "t"}}}}]"#
        );
        let events: Vec<RawEvent> = serde_json::from_str(&body).unwrap();
        assert!(events[0].is_entry_of(&"@mal:x".into()));
        let contents: Vec<Value> = events.into_iter().filter_map(RawEvent::state_event).map(|it| it.content).collect();
        assert_eq!(contents, [json!({ "membership": "join" }), json!({}), json!({ "topic": "t" })]);
    }
}
