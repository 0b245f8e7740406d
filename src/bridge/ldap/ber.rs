//! Just enough BER to read the values of response controls and intermediate answers without trusting them.
//!
//! Never panics, never allocates; anything out of order is `None`.

/// Tag byte and content of the first element in `bytes`, and what follows it.
#[must_use]
pub fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let digits = usize::from(first & 0x7f);
        if digits == 0 || digits > 4 || rest.len() < digits {
            return None;
        }
        let length = rest[..digits].iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        (length, &rest[digits..])
    };
    (rest.len() >= length).then(|| (tag, &rest[..length], &rest[length..]))
}

/// Content of the first element, if it has this tag, and what follows it.
#[must_use]
pub fn tagged(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).and_then(|(tag, content, rest)| (tag == wanted).then_some((content, rest)))
}

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const OCTET_STRING: u8 = 0x04;
pub const SEQUENCE: u8 = 0x30;

/// The cookie in the value of a paged-results control (RFC 2696).
#[must_use]
pub fn page_cookie(value: &[u8]) -> Option<Vec<u8>> {
    let (inside, _) = tagged(value, SEQUENCE)?;
    let (_, rest) = tagged(inside, INTEGER)?;
    let (cookie, _) = tagged(rest, OCTET_STRING)?;
    Some(cookie.to_vec())
}

/// The cookie in the value of a sync-done control (RFC 4533), if there is one; `None` outside when it is not such a value.
#[must_use]
pub fn sync_done_cookie(value: &[u8]) -> Option<Option<Vec<u8>>> {
    let (inside, _) = tagged(value, SEQUENCE)?;
    match element(inside) {
        None if inside.is_empty() => Some(None),
        Some((OCTET_STRING, cookie, _)) => Some(Some(cookie.to_vec())),
        Some((BOOLEAN, _, [])) => Some(None),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cookies_are_read() {
        assert_eq!(page_cookie(&[0x30, 7, 2, 1, 0, 4, 2, 9, 8]), Some(vec![9, 8]));
        assert_eq!(page_cookie(&[0x30, 5, 2, 1, 0, 4, 0]), Some(vec![]));
        assert_eq!(sync_done_cookie(&[0x30, 0]), Some(None));
        assert_eq!(sync_done_cookie(&[0x30, 3, 1, 1, 0xff]), Some(None));
        assert_eq!(sync_done_cookie(&[0x30, 3, 4, 1, b'c']), Some(Some(b"c".to_vec())));
    }

    #[test]
    fn what_is_cut_short_or_mistagged_is_nothing() {
        assert_eq!(page_cookie(&[0x30, 7, 2, 1, 0, 4, 2, 9]), None);
        assert_eq!(page_cookie(&[0x30, 3, 2, 1, 0]), None);
        assert_eq!(sync_done_cookie(&[0x04, 0]), None);
        assert_eq!(element(&[0x30, 0x84, 0xff]), None);
        assert_eq!(element(&[0x30, 0x80]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let whole = [page_cookie(&bytes), sync_done_cookie(&bytes).flatten()];
            prop_assert!(whole.iter().flatten().all(|cookie| cookie.len() < bytes.len()));
        }
    }
}
