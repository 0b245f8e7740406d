//! The names of things: parsed at the edge, trusted afterwards.
//!
//! All of them are shared strings (`Arc<str>`), because one person's id stands in hundreds of rooms: a clone costs a counter,
//! and a reader that interns its ids ([`Interner`]) keeps one copy of each.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

macro_rules! string_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl Ord for $name {
            /// As texts; copies that are shared are equal without a look at them.
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<Arc<str>> for $name {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

string_ids! {
    /// A source's immutable id of a user or group (S-1): entryUUID, objectGUID, Graph `id`, SCIM `id`, or what a file says.
    StableId;
    /// The part of an MXID before the colon, without the `@`.
    Localpart;
    /// A full Matrix user id, `@localpart:server`.
    UserId;
    /// A Matrix room id, `!…`.
    RoomId;
    /// A Matrix event id, `$…`.
    EventId;
    /// A full room alias, `#localpart:server`.
    RoomAlias;
    /// The configured (or, in mirror mode, the source's stable) id of a managed space (S-12, S-15).
    SpaceId;
    /// The `id` of a `default_rooms` or `rooms` entry (S-30).
    RoomSlot;
}

impl UserId {
    /// `@localpart:server`.
    #[must_use]
    pub fn new(localpart: &str, server: &str) -> Self {
        Self::from(format!("@{localpart}:{server}"))
    }

    /// The part between `@` and the first colon.
    #[must_use]
    pub fn localpart(&self) -> &str {
        let bare = self.0.strip_prefix('@').unwrap_or(&self.0);
        bare.split_once(':').map_or(bare, |(localpart, _)| localpart)
    }

    /// The part after the first colon (server names may hold colons themselves).
    #[must_use]
    pub fn server(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, server)| server)
    }
}

/// One managed thing, whatever room carries it at the moment (S-16).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// A managed space.
    Space(SpaceId),
    /// A room usher makes in a managed space.
    Room {
        /// The space it hangs in.
        space: SpaceId,
        /// Which of the space's rooms it is.
        slot: RoomSlot,
    },
}

impl Key {
    /// The space itself, or the space the room hangs in.
    #[must_use]
    pub fn space(&self) -> &SpaceId {
        match self {
            Self::Space(space) | Self::Room { space, .. } => space,
        }
    }

    /// Whether this is a space.
    #[must_use]
    pub fn is_space(&self) -> bool {
        matches!(self, Self::Space(_))
    }

    /// Localpart of the deterministic alias that fences this thing: `usher_<instance>_<id>` or `usher_<instance>_<id>_<slot>`,
    /// every part escaped so that two keys never share an alias (DESIGN decision 8).
    #[must_use]
    pub fn alias_localpart(&self, instance: &str) -> String {
        let mut alias = format!("usher_{}", escape(instance));
        match self {
            Self::Space(space) => {
                alias.push_str("_s_");
                alias.push_str(&escape(space.as_str()));
            }
            Self::Room { space, slot } => {
                alias.push_str("_r_");
                alias.push_str(&escape(space.as_str()));
                alias.push('_');
                alias.push_str(&escape(slot.as_str()));
            }
        }
        alias
    }

    /// [`Key::alias_localpart`] as a full alias on `server`.
    #[must_use]
    pub fn alias(&self, instance: &str, server: &str) -> RoomAlias {
        RoomAlias::from(format!("#{}:{server}", self.alias_localpart(instance)))
    }
}

/// Localpart of the alias that fences the operators' room (S-97): no key has it.
#[must_use]
pub fn operators_alias_localpart(instance: &str) -> String {
    format!("usher_{}_operators", escape(instance))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(space) => write!(f, "{space}"),
            Self::Room { space, slot } => write!(f, "{space}/{slot}"),
        }
    }
}

/// Longest escaped part of an alias; an alias may have 255 bytes in all, and a longer part becomes a digest.
const LONGEST_ALIAS_PART: usize = 64;

fn escape(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "={byte:02x}");
            }
        }
    }
    if out.len() <= LONGEST_ALIAS_PART {
        return out;
    }
    format!("=h{}", hex::encode(&Sha256::digest(part.as_bytes())[..20]))
}

/// Milliseconds since the Unix epoch. Always an argument in the core, never read there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment plus `ms` milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// When to try again what has failed `before` times until now and once more: the pause, in milliseconds, doubles from the first to the
    /// longest.
    #[must_use]
    pub fn back_off(self, before: u32, (first_ms, longest_ms): (i64, i64)) -> Self {
        self.plus_ms(first_ms.saturating_mul(2_i64.saturating_pow(before)).min(longest_ms))
    }

    /// Milliseconds from `earlier` to this moment; negative if the clock went back.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment for people, in UTC, to the minute: for what lies hours away. [`fmt::Display`] goes to the second.
    #[must_use]
    pub fn to_minute(self) -> String {
        self.written("%Y-%m-%d %H:%M")
    }

    fn written(self, format: &str) -> String {
        chrono::DateTime::from_timestamp_millis(self.0)
            .map_or_else(|| format!("{} ms", self.0), |at| at.format(format).to_string())
    }
}

impl fmt::Display for Timestamp {
    /// The moment for people, in UTC, to the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.written("%Y-%m-%d %H:%M:%S UTC"))
    }
}

/// Keeps one copy of every id it has seen, so that a million memberships of a hundred thousand people share their strings.
#[derive(Debug, Default)]
pub struct Interner(BTreeSet<Arc<str>>);

impl Interner {
    /// The shared copy of `text`.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = Arc::from(text);
        self.0.insert(Arc::clone(&shared));
        shared
    }
}

/// Walks two lists that are sorted by id side by side, once: each id with what the left and the right list have of it.
pub fn side_by_side<'i, I: Ord + 'i, L, R>(
    left: impl IntoIterator<Item = (&'i I, L)>,
    right: impl IntoIterator<Item = (&'i I, R)>,
    mut each: impl FnMut(&'i I, Option<L>, Option<R>),
) {
    let (mut lefts, mut rights) = (left.into_iter(), right.into_iter());
    let (mut left, mut right) = (lefts.next(), rights.next());
    loop {
        let order = match (&left, &right) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((left, _)), Some((right, _))) => left.cmp(right),
        };
        let from_left = if order.is_le() { std::mem::replace(&mut left, lefts.next()) } else { None };
        let from_right = if order.is_ge() { std::mem::replace(&mut right, rights.next()) } else { None };
        match (from_left, from_right) {
            (Some((id, left)), right) => each(id, Some(left), right.map(|(_, right)| right)),
            (None, Some((id, right))) => each(id, None, Some(right)),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_side_by_side_meet_where_their_ids_do() {
        let (left, right) = ([(&1, 'a'), (&2, 'b'), (&4, 'd')], [(&2, 'B'), (&3, 'C')]);
        let mut seen = Vec::new();
        side_by_side(left, right, |id, left, right| seen.push((*id, left, right)));
        let all = [(1, Some('a'), None), (2, Some('b'), Some('B')), (3, None, Some('C')), (4, Some('d'), None)];
        assert_eq!(seen, all);
    }

    #[test]
    fn aliases_of_different_keys_never_meet() {
        let tricky = [
            Key::Space("a_b".into()),
            Key::Space("a".into()),
            Key::Room { space: "a".into(), slot: "b".into() },
            Key::Room { space: "a_b".into(), slot: "c".into() },
            Key::Room { space: "a".into(), slot: "b_c".into() },
            Key::Space("A".into()),
            Key::Space("=41".into()),
            Key::Space("x".repeat(300).into()),
            Key::Space("x".repeat(301).into()),
        ];
        let aliases: BTreeSet<String> = tricky.iter().map(|key| key.alias_localpart("main")).collect();
        assert_eq!(aliases.len(), tricky.len());
        assert!(!aliases.contains(&operators_alias_localpart("main")));
        assert!(aliases.iter().all(|alias| alias.len() < 200));
    }

    #[test]
    fn a_moment_is_written_in_utc_and_one_beyond_the_calendar_as_a_number() {
        let at = Timestamp(1_795_255_000_999);
        assert_eq!((at.to_string(), at.to_minute()), ("2026-11-21 09:56:40 UTC".into(), "2026-11-21 09:56".into()));
        assert_eq!(Timestamp(i64::MAX).to_string(), format!("{} ms", i64::MAX));
    }

    #[test]
    fn a_server_name_may_hold_a_port() {
        let user = UserId::new("ann", "localhost:8448");
        assert_eq!((user.localpart(), user.server()), ("ann", "localhost:8448"));
    }
}
