//! Distinguished names in normal form (RFC 4514).

/// The normal form of `dn`, or `None` if it is not a DN.
#[must_use]
pub fn normalise(_dn: &str) -> Option<String> {
    None
}
