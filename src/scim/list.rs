//! Lists (RFC 7644 section 3.4.2, RFC 9865): what was asked for, sorting, cursors, and the answer's form.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::evaluate::values;
use super::filter::{self, Filter};
use super::schema::{Named, Place, resolve};
use super::{Document, Error, Kind, fold};

/// Resources in a page unless asked otherwise.
pub const PAGE: i64 = 100;
/// Most resources in a page.
pub const MOST: i64 = 200;
/// How long a cursor is good for, in seconds.
pub const CURSOR_SECONDS: i64 = 3600;
/// URN of every list.
pub const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub filter: Option<Filter>,
    pub sort: Option<Sort>,
    pub paging: Paging,
    pub count: i64,
    pub attributes: Option<String>,
    pub excluded: Option<String>,
    /// Of filter and order: a cursor goes with them.
    pub digest: String,
}

/// Which page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paging {
    /// 1-based.
    Index(i64),
    /// The first page has none yet.
    Cursor(Option<Cursor>),
}

impl Default for Paging {
    fn default() -> Self {
        Self::Index(1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort {
    pub by: String,
    pub descending: bool,
}

/// Where the next or the previous page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Behind this resource.
    After(i64),
    /// In front of this resource.
    Before(i64),
    /// In a sorted list: behind so many.
    Offset(i64),
}

impl Cursor {
    /// As clients see it: opaque, bound to the filter and for a time.
    #[must_use]
    pub fn encode(self, digest: &str, now_ms: i64) -> String {
        let (letter, number) = match self {
            Self::After(number) => ('a', number),
            Self::Before(number) => ('b', number),
            Self::Offset(number) => ('o', number),
        };
        let until = now_ms / 1000 + CURSOR_SECONDS;
        Base64UrlUnpadded::encode_string(format!("{letter}{number}.{until}.{digest}").as_bytes())
    }

    fn decode(text: &str, digest: &str, now_ms: i64) -> Result<Self, Error> {
        let broken = || Error::invalid_cursor("this cursor is not one of ours");
        let bytes = Base64UrlUnpadded::decode_vec(text).map_err(|_| broken())?;
        let text = String::from_utf8(bytes).map_err(|_| broken())?;
        let mut parts = text.splitn(3, '.');
        let (Some(place), Some(until), Some(bound)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(broken());
        };
        let number = place.get(1..).and_then(|number| number.parse::<i64>().ok()).filter(|number| *number >= 0);
        let cursor = match (place.chars().next(), number) {
            (Some('a'), Some(number)) => Self::After(number),
            (Some('b'), Some(number)) => Self::Before(number),
            (Some('o'), Some(number)) => Self::Offset(number),
            _ => return Err(broken()),
        };
        let until: i64 = until.parse().map_err(|_| broken())?;
        if bound != digest {
            return Err(Error::invalid_cursor("this cursor belongs to another query"));
        }
        if now_ms / 1000 > until {
            return Err(Error::expired_cursor());
        }
        Ok(cursor)
    }
}

impl Query {
    /// From the parameters of a GET; those we do not know are ignored (Entra ID sends its feature flag along).
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn from_parameters(pairs: &[(String, String)], now_ms: i64) -> Result<Self, Error> {
        let get = |name: &str| {
            pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        Self::read(&get, now_ms)
    }

    /// From the body of a `.search`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_search(body: &Value, now_ms: i64) -> Result<Self, Error> {
        let Value::Object(body) = body else { return Err(Error::invalid_syntax("the body must be a JSON object")) };
        let get = |name: &str| {
            let value = body.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)?;
            match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                Value::Array(items) => Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
                other => Some(other.to_string()),
            }
        };
        Self::read(&get, now_ms)
    }

    fn read(get: &dyn Fn(&str) -> Option<String>, now_ms: i64) -> Result<Self, Error> {
        // One without a text is an error like any other (`filter::parse`), not a wish for everybody.
        let filter_text = get("filter");
        let by = get("sortBy").filter(|text| !text.is_empty());
        let descending = get("sortOrder").is_some_and(|order| order.eq_ignore_ascii_case("descending"));
        let digest = Sha256::digest(format!("{filter_text:?} {by:?} {descending}"));
        let digest = Base64UrlUnpadded::encode_string(&digest[..9]);
        let cursor = get("cursor");
        let number = |name: &str| -> Result<Option<i64>, Error> {
            let Some(text) = get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
            let number = text.parse::<i64>();
            number.map(Some).map_err(|_| match (name, &cursor) {
                ("count", Some(_)) => Error::invalid_count("count must be a whole number"),
                _ => Error::invalid_value(format!("{name} must be a whole number")),
            })
        };
        let count = number("count")?.unwrap_or(PAGE).clamp(0, MOST);
        let paging = match cursor.as_deref() {
            None => Paging::Index(number("startIndex")?.unwrap_or(1).max(1)),
            Some("") => Paging::Cursor(None),
            Some(text) => Paging::Cursor(Some(Cursor::decode(text, &digest, now_ms)?)),
        };
        Ok(Self {
            filter: filter_text.as_deref().map(filter::parse).transpose()?,
            sort: by.map(|by| Sort { by, descending }),
            paging,
            count,
            attributes: get("attributes"),
            excluded: get("excludedAttributes"),
            digest,
        })
    }
}

/// What a resource is sorted by: the primary value, else the first; missing ones last.
#[must_use]
pub fn sort_key(kind: Kind, by: &str, resource: &Document) -> Option<String> {
    let place = sort_place(kind, by)?;
    let leaf = place.sub.or_else(|| place.attribute.sub("value")).unwrap_or(place.attribute);
    let primary = resource
        .get(place.attribute.name)
        .and_then(Value::as_array)
        .and_then(|items| items.iter().find(|item| super::document::is_primary(item)))
        .and_then(|item| item.get(leaf.name));
    let value = primary.or_else(|| values(resource, place).into_iter().next())?;
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(if leaf.case_exact { text } else { fold(&text) })
}

/// Where the attribute stands that is sorted by; `None` for one that a kind does not have.
#[must_use]
pub fn sort_place(kind: Kind, by: &str) -> Option<Place> {
    match resolve(kind, by) {
        Named::Attribute(place) => Some(place),
        Named::Extension(_) | Named::Core | Named::Foreign | Named::Unknown => None,
    }
}

/// Orders two sort keys, those that are missing behind all others when ascending.
#[must_use]
pub fn compare(one: Option<&String>, other: Option<&String>, descending: bool) -> std::cmp::Ordering {
    let ascending = match (one, other) {
        (Some(one), Some(other)) => one.cmp(other),
        (one, other) => other.is_some().cmp(&one.is_some()),
    };
    if descending { ascending.reverse() } else { ascending }
}

/// A page, before it is written down.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub total: i64,
    pub resources: Vec<Value>,
    pub start: Option<i64>,
    pub next: Option<String>,
    pub previous: Option<String>,
}

impl Page {
    /// The `ListResponse`.
    #[must_use]
    pub fn body(self) -> Value {
        let mut body = json!({
            "schemas": [LIST], "totalResults": self.total, "itemsPerPage": self.resources.len(), "Resources": self.resources,
        });
        for (name, value) in [("nextCursor", self.next), ("previousCursor", self.previous)] {
            if let Some(value) = value {
                body[name] = value.into();
            }
        }
        if let Some(start) = self.start {
            body["startIndex"] = start.into();
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Result<Query, Error> {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Query::from_parameters(&pairs, 1_000_000)
    }

    #[test]
    fn odd_numbers_mean_the_nearest_page() {
        let query = query(&[("startIndex", "0"), ("count", "-3"), ("aadOptscim062020", "")]).unwrap();
        assert_eq!((query.paging, query.count), (Paging::Index(1), 0));
        let largest = super::tests::query(&[("COUNT", "100000")]).unwrap();
        assert_eq!(largest.count, MOST);
        assert_eq!(super::tests::query(&[("count", "many")]).unwrap_err().kind, Some("invalidValue"));
        assert_eq!(super::tests::query(&[("cursor", ""), ("count", "many")]).unwrap_err().kind, Some("invalidCount"));
    }

    #[test]
    fn an_empty_filter_never_means_everybody() {
        for empty in ["", "  "] {
            assert_eq!(query(&[("filter", empty)]).unwrap_err().kind, Some("invalidFilter"));
            let search = json!({ "Filter": empty });
            assert_eq!(Query::from_search(&search, 0).unwrap_err().kind, Some("invalidFilter"));
        }
        assert_eq!(Query::from_search(&json!({ "filter": [] }), 0).unwrap_err().kind, Some("invalidFilter"));
        assert!(Query::from_search(&json!({ "filter": null }), 0).unwrap().filter.is_none(), "null says nothing");
    }

    #[test]
    fn a_cursor_goes_with_its_query_for_an_hour() {
        let asked = [("filter", "userName pr"), ("cursor", "")];
        let first = query(&asked).unwrap();
        assert_eq!(first.paging, Paging::Cursor(None));
        let cursor = Cursor::After(17).encode(&first.digest, 1_000_000);
        let with = |cursor: &str, filter: &str| query(&[("filter", filter), ("cursor", cursor)]);
        assert_eq!(with(&cursor, "userName pr").unwrap().paging, Paging::Cursor(Some(Cursor::After(17))));
        assert_eq!(with(&cursor, "active pr").unwrap_err().kind, Some("invalidCursor"));
        assert_eq!(with("nonsense", "userName pr").unwrap_err().kind, Some("invalidCursor"));
        let old = Cursor::After(17).encode(&first.digest, 1_000_000 - 2 * CURSOR_SECONDS * 1000);
        assert_eq!(with(&old, "userName pr").unwrap_err().kind, Some("expiredCursor"));
    }

    #[test]
    fn missing_values_come_last_and_the_primary_one_counts() {
        let ann = serde_json::json!({ "emails": [{ "value": "Z" }, { "value": "B", "primary": true }] });
        let key = sort_key(Kind::User, "emails", ann.as_object().unwrap());
        assert_eq!(key.as_deref(), Some("b"));
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert!(compare(Some(&a), Some(&b), false).is_lt());
        assert!(compare(Some(&a), None, false).is_lt());
        assert!(compare(Some(&a), None, true).is_gt());
    }
}
