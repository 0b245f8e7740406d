//! Who may do what (S-62): bearer tokens, kept as digests only, and their roles.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Kind;
use crate::ids::Timestamp;

/// What is done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// What a caller may do. Writing does not imply reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// From `access:scope` words; those that are none grant nothing.
    #[must_use]
    pub fn new<'r>(roles: impl IntoIterator<Item = &'r str>) -> Self {
        let mut bits = 0;
        for (access, scope) in roles.into_iter().filter_map(|role| role.split_once(':')) {
            for (each, name) in [(Access::Read, "read"), (Access::Write, "write")] {
                for (kind, scopes) in [(Kind::User, "users"), (Kind::Group, "groups")] {
                    if (access == "*" || access == name) && (scope == "*" || scope == scopes) {
                        bits |= bit(each, kind);
                    }
                }
            }
        }
        Self(bits)
    }

    /// Whether they include this.
    #[must_use]
    pub fn allow(self, access: Access, kind: Kind) -> bool {
        self.0 & bit(access, kind) != 0
    }
}

fn bit(access: Access, kind: Kind) -> u8 {
    let scope = match kind {
        Kind::User => 1,
        Kind::Group => 4,
    };
    match access {
        Access::Read => scope,
        Access::Write => scope << 1,
    }
}

/// SHA-256 of a token: what is kept of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a token as it is shown.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[digest]")
    }
}

/// A token that is accepted.
#[derive(Clone, Debug)]
pub struct Token {
    pub digest: Digest,
    /// What the log calls its bearer.
    pub name: String,
    pub roles: Roles,
    pub not_after: Option<Timestamp>,
}

/// Whose token was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    Accepted { name: String, roles: Roles },
    Expired,
    Unknown,
}

/// Looks a token up: all of them are compared, in constant time, whatever matches.
#[must_use]
pub fn look_up(tokens: &[Token], shown: &str, now: Timestamp) -> Shown {
    if shown.is_empty() {
        return Shown::Unknown;
    }
    let digest = Digest::of(shown);
    let mut found = None;
    for token in tokens {
        if bool::from(token.digest.0.ct_eq(&digest.0)) {
            found = Some(token);
        }
    }
    match found {
        None => Shown::Unknown,
        Some(token) if token.not_after.is_some_and(|end| now > end) => Shown::Expired,
        Some(token) => Shown::Accepted { name: token.name.clone(), roles: token.roles },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_does_not_imply_reading() {
        let roles = Roles::new(["read:*", "write:groups"]);
        assert!(roles.allow(Access::Read, Kind::User) && roles.allow(Access::Read, Kind::Group));
        assert!(!roles.allow(Access::Write, Kind::User) && roles.allow(Access::Write, Kind::Group));
        assert!(!Roles::new(["write:users"]).allow(Access::Read, Kind::User));
        assert_eq!(Roles::new(["*:*"]), Roles::new(["read:users", "*:groups", "write:users"]));
        assert_eq!(Roles::new(["all", "read", "*:rooms"]), Roles::default());
    }

    #[test]
    fn a_token_is_known_until_it_expires_and_leaves_no_trace() {
        let token = |text: &str, not_after| Token {
            digest: Digest::of(text),
            name: text[..3].to_owned(),
            roles: Roles::new(["*:*"]),
            not_after,
        };
        let tokens = [token("old-secret", Some(Timestamp(10))), token("new-secret", None)];
        let now = Timestamp(11);
        assert_eq!(look_up(&tokens, "old-secret", now), Shown::Expired);
        assert!(matches!(look_up(&tokens, "old-secret", Timestamp(10)), Shown::Accepted { .. }));
        assert!(matches!(look_up(&tokens, "new-secret", now), Shown::Accepted { name, .. } if name == "new"));
        for wrong in ["", "new-secre", "new-secret ", "secret"] {
            assert_eq!(look_up(&tokens, wrong, now), Shown::Unknown);
        }
        assert!(!format!("{tokens:?}").contains("secret"));
    }
}
