//! Which addresses there are, what may be done there, and what a caller must be allowed for it.

use super::Kind;
use super::access::{Access, Roles};

/// An address below the base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    ServiceProviderConfig,
    ResourceTypes,
    ResourceType(String),
    Schemas,
    Schema(String),
    Me,
    /// `None`: over users and groups.
    Search(Option<Kind>),
    Collection(Kind),
    Resource(Kind, String),
    Bulk,
}

/// One of each, as paths: what every test of "all routes" goes through.
pub const EVERY: [&str; 14] = [
    "/ServiceProviderConfig",
    "/ResourceTypes",
    "/ResourceTypes/User",
    "/Schemas",
    "/Schemas/urn:ietf:params:scim:schemas:core:2.0:User",
    "/Me",
    "/.search",
    "/Users/.search",
    "/Groups/.search",
    "/Users",
    "/Groups",
    "/Users/{id}",
    "/Groups/{id}",
    "/Bulk",
];

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any accepted credential.
    Nothing,
    One(Access, Kind),
    /// Reading of users or of groups; the answer holds what may be read.
    AnyRead,
    /// Decided for each operation.
    Each,
}

impl Route {
    /// The address of a path below the base URL, already percent-decoded. One slash at its end does no harm.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v2").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        if rest.is_some_and(|rest| rest.is_empty() || rest.contains('/')) {
            return None;
        }
        let kind = Kind::ALL.into_iter().find(|kind| kind.endpoint() == first);
        Some(match (first, kind, rest) {
            (_, Some(kind), None) => Self::Collection(kind),
            (_, Some(kind), Some(".search")) => Self::Search(Some(kind)),
            (_, Some(kind), Some(id)) => Self::Resource(kind, id.to_owned()),
            (".search", _, None) => Self::Search(None),
            ("ServiceProviderConfig", _, None) => Self::ServiceProviderConfig,
            ("ResourceTypes", _, None) => Self::ResourceTypes,
            ("ResourceTypes", _, Some(name)) => Self::ResourceType(name.to_owned()),
            ("Schemas", _, None) => Self::Schemas,
            ("Schemas", _, Some(urn)) => Self::Schema(urn.to_owned()),
            ("Me", _, None) => Self::Me,
            ("Bulk", _, None) => Self::Bulk,
            _ => return None,
        })
    }

    /// What may be done there. HEAD goes with GET.
    #[must_use]
    pub fn methods(&self) -> &'static [&'static str] {
        match self {
            Self::ServiceProviderConfig
            | Self::ResourceTypes
            | Self::ResourceType(_)
            | Self::Schemas
            | Self::Schema(_) => &["GET"],
            Self::Me => &["GET", "POST", "PUT", "PATCH", "DELETE"],
            Self::Search(_) | Self::Bulk => &["POST"],
            Self::Collection(_) => &["GET", "POST"],
            Self::Resource(..) => &["GET", "PUT", "PATCH", "DELETE"],
        }
    }

    /// Whether resources may be changed by this.
    #[must_use]
    pub fn writes(&self, method: &str) -> bool {
        match self {
            Self::Collection(_) | Self::Resource(..) => method != "GET",
            Self::Bulk => true,
            Self::ServiceProviderConfig
            | Self::ResourceTypes
            | Self::ResourceType(_)
            | Self::Schemas
            | Self::Schema(_)
            | Self::Me
            | Self::Search(_) => false,
        }
    }

    /// What a caller must be allowed to do this there.
    #[must_use]
    pub fn need(&self, method: &str) -> Need {
        let access = if method == "GET" { Access::Read } else { Access::Write };
        match self {
            Self::ServiceProviderConfig
            | Self::ResourceTypes
            | Self::ResourceType(_)
            | Self::Schemas
            | Self::Schema(_)
            | Self::Me => Need::Nothing,
            Self::Search(None) => Need::AnyRead,
            Self::Search(Some(kind)) => Need::One(Access::Read, *kind),
            Self::Collection(kind) | Self::Resource(kind, _) => Need::One(access, *kind),
            Self::Bulk => Need::Each,
        }
    }
}

impl Need {
    /// Whether somebody with these roles may.
    #[must_use]
    pub fn is_met(self, roles: Roles) -> bool {
        match self {
            Self::Nothing | Self::Each => true,
            Self::One(access, kind) => roles.allow(access, kind),
            Self::AnyRead => Kind::ALL.into_iter().any(|kind| roles.allow(Access::Read, kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new route does not compile until it has a number here, and the test below does not pass until it is listed.
    fn number(route: &Route) -> usize {
        match route {
            Route::ServiceProviderConfig => 0,
            Route::ResourceTypes => 1,
            Route::ResourceType(_) => 2,
            Route::Schemas => 3,
            Route::Schema(_) => 4,
            Route::Me => 5,
            Route::Search(None) => 6,
            Route::Search(Some(Kind::User)) => 7,
            Route::Search(Some(Kind::Group)) => 8,
            Route::Collection(Kind::User) => 9,
            Route::Collection(Kind::Group) => 10,
            Route::Resource(Kind::User, _) => 11,
            Route::Resource(Kind::Group, _) => 12,
            Route::Bulk => 13,
        }
    }

    #[test]
    fn every_route_is_listed_once() {
        let mut numbers: Vec<usize> =
            EVERY.iter().filter_map(|path| Route::parse(path)).map(|route| number(&route)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..EVERY.len()).collect::<Vec<_>>());
        let routes: Vec<Route> = EVERY.iter().filter_map(|path| Route::parse(path)).collect();
        assert_eq!(routes.len(), EVERY.len());
        for (at, route) in routes.iter().enumerate() {
            assert!(!routes[..at].contains(route));
        }
    }

    #[test]
    fn paths_are_read_with_a_twin_and_one_slash_at_the_end() {
        assert_eq!(Route::parse("/v2/Users/"), Some(Route::Collection(Kind::User)));
        assert_eq!(Route::parse("/Users/.search"), Some(Route::Search(Some(Kind::User))));
        assert_eq!(Route::parse("/Groups/a"), Some(Route::Resource(Kind::Group, "a".to_owned())));
        for wrong in ["", "/", "/users", "/Users/a/b", "/Users//", "Users", "/v2", "/v3/Users", "/Bulk/x", "/Me/x"] {
            assert_eq!(Route::parse(wrong), None, "{wrong}");
        }
    }
}
