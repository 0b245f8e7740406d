//! Single resources: reading, creating, replacing, patching, deleting.

use serde_json::Value;

use super::render::{Linked, groups_of, linked, location};
use super::{Answer, Call, Conditions, LARGEST_SHOWN, Refusal, Server};
use crate::clock;
use crate::ids::{Localpart, Timestamp};
use crate::scim::patch::{self, MemberChange};
use crate::scim::projection::Projection;
use crate::scim::schema::{Named, resolve};
use crate::scim::{Document, Error, Kind, document, etag, evaluate};
use crate::store::scim::{Change, Decide, New, Resource, Resources, Wanted, Written};

impl Server {
    pub(super) async fn get(
        &self,
        call: &Call,
        (kind, id): (Kind, &str),
        conditions: &Conditions,
    ) -> Result<Answer, Refusal> {
        let resources = self.resources()?;
        let Some(found) = resources.find(kind, id).await? else { return Err(Error::not_found(kind.name()).into()) };
        let version = etag(found.version);
        if conditions.if_none_match.as_deref().is_some_and(|given| names(given, &version)) {
            return Ok(Answer { status: 304, version: Some(version), ..Answer::default() });
        }
        let projection = conditions.projection(kind);
        let found = linked(&resources, call, vec![found], &projection).await?.pop();
        let Some(found) = found else { return Err(Error::not_found(kind.name()).into()) };
        Ok(answered(call, 200, found, &projection))
    }

    pub(super) async fn create(
        &self,
        call: &Call,
        kind: Kind,
        conditions: &Conditions,
        body: &Value,
    ) -> Result<Answer, Refusal> {
        let resources = self.resources()?;
        let incoming = document::read(kind, body)?;
        let mut document = incoming.document;
        document::check(kind, &document)?;
        let mut localpart = None;
        if kind == Kind::User {
            document.entry("active").or_insert_with(|| true.into());
            localpart = Some(self.localpart(&document)?);
        }
        let members = incoming.members.unwrap_or_default();
        let now = clock::now();
        let new = New { kind, id: new_id(now)?, document, localpart, members };
        self.refuse_taken(&resources, &new).await?;
        let projection = conditions.projection(kind);
        let made = resources.create(&new, wanted(kind, &projection), now.0).await?;
        tracing::info!(by = call.name, kind = kind.name(), id = made.resource.id, "SCIM: created");
        shown(&resources, call, (201, made), &projection).await
    }

    pub(super) async fn replace(
        &self,
        call: &Call,
        (kind, id): (Kind, &str),
        conditions: &Conditions,
        body: Result<Value, Error>,
    ) -> Result<Answer, Refusal> {
        let resources = self.resources()?;
        let incoming = body.and_then(|body| document::read(kind, &body));
        let decide = |before: &Resource| {
            conditions.check(before)?;
            let incoming = incoming.clone()?;
            let mut document = incoming.document;
            document::check(kind, &document)?;
            if kind == Kind::User && !document.contains_key("active") {
                // Saying nothing neither locks nor unlocks anybody.
                document.insert("active".to_owned(), before.active.into());
            }
            // Nor does it empty a group.
            let members = incoming.members.map(|ids| vec![MemberChange::Clear, MemberChange::Add(ids)]);
            Ok(Change { document, members: members.unwrap_or_default() })
        };
        let projection = conditions.projection(kind);
        let wanted = wanted(kind, &projection);
        let after = changed(&resources, call, ("replaced", kind, id), (wanted, &decide)).await?;
        shown(&resources, call, (200, after), &projection).await
    }

    pub(super) async fn patch(
        &self,
        call: &Call,
        (kind, id): (Kind, &str),
        conditions: &Conditions,
        body: Result<Value, Error>,
    ) -> Result<Answer, Refusal> {
        let resources = self.resources()?;
        let operations = body.and_then(|body| patch::parse(&body));
        let decide = |before: &Resource| {
            conditions.check(before)?;
            let operations = operations.as_ref().map_err(Error::clone)?;
            let mut document = before.document.clone();
            let members = patch::apply(kind, &mut document, operations)?;
            Ok(Change { document, members })
        };
        let projection = conditions.projection(kind);
        let wanted = match wanted(kind, &projection) {
            Wanted::Members if projection.is_plain() => Wanted::FewMembers(LARGEST_SHOWN),
            wanted => wanted,
        };
        let after = changed(&resources, call, ("patched", kind, id), (wanted, &decide)).await?;
        if wanted != Wanted::Nothing && after.members.is_none() {
            return Ok(Answer { status: 204, version: Some(etag(after.resource.version)), ..Answer::default() });
        }
        shown(&resources, call, (200, after), &projection).await
    }

    pub(super) async fn delete(
        &self,
        call: &Call,
        (kind, id): (Kind, &str),
        conditions: &Conditions,
    ) -> Result<Answer, Refusal> {
        let check = |before: &Resource| conditions.check(before);
        if !self.resources()?.delete((kind, id), clock::now().0, &check).await? {
            return Err(Error::not_found(kind.name()).into());
        }
        tracing::info!(by = call.name, kind = kind.name(), id, "SCIM: deleted");
        Ok(Answer { status: 204, ..Answer::default() })
    }

    /// The Matrix name, made once and kept for good (S-63).
    fn localpart(&self, document: &Document) -> Result<Localpart, Error> {
        let settings = &self.0.settings;
        let name = settings.username_attribute.as_str();
        let Named::Attribute(place) = resolve(Kind::User, name) else {
            return Err(Error::new(500, "attributeMapping.username names no attribute"));
        };
        let values = evaluate::values(document, place);
        let value = values.first().and_then(|value| value.as_str()).map(str::trim).filter(|value| !value.is_empty());
        let Some(value) = value else {
            return Err(Error::invalid_value(format!("{name} must have a value: the Matrix name is made of it")));
        };
        let value = match value.split_once('@') {
            Some((local, _)) if settings.strip_domain && !local.is_empty() => local,
            _ => value,
        };
        settings.mapping.map(value).map_err(|_| {
            Error::invalid_value(format!("{name} cannot be made into a Matrix name: it is too long or empty"))
        })
    }
}

/// A resource after its change; 404 where there is none.
async fn changed(
    resources: &Resources,
    call: &Call,
    (deed, kind, id): (&str, Kind, &str),
    (wanted, decide): (Wanted, &Decide<'_>),
) -> Result<Written, Refusal> {
    let Some(after) = resources.change((kind, id), (wanted, clock::now().0), decide).await? else {
        return Err(Error::not_found(kind.name()).into());
    };
    tracing::info!(by = call.name, kind = kind.name(), id, version = after.resource.version, "SCIM: {deed}");
    Ok(after)
}

/// What is read along with a write.
fn wanted(kind: Kind, projection: &Projection) -> Wanted {
    match kind {
        Kind::Group if projection.wants("members") => Wanted::Members,
        Kind::User | Kind::Group => Wanted::Nothing,
    }
}

/// A resource that was written, as it is answered. A person's groups are no part of their version: they are read afterwards.
async fn shown(
    resources: &Resources,
    call: &Call,
    (status, Written { resource, members }): (u16, Written),
    projection: &Projection,
) -> Result<Answer, Refusal> {
    let links = match resource.kind {
        Kind::Group => members.unwrap_or_default(),
        Kind::User => {
            let mut groups = groups_of(resources, call, std::slice::from_ref(&resource), projection).await?;
            groups.remove(&resource.pk).unwrap_or_default()
        }
    };
    Ok(answered(call, status, Linked { resource, links }, projection))
}

fn answered(call: &Call, status: u16, found: Linked, projection: &Projection) -> Answer {
    let version = etag(found.resource.version);
    let location = location(&call.base, found.resource.kind, &found.resource.id);
    let body = found.shown(&call.base, projection);
    Answer { status, body: Some(body), location: Some(location), version: Some(version), ..Answer::default() }
}

impl Conditions {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn projection(&self, kind: Kind) -> Projection {
        Projection::new(kind, self.parameter("attributes"), self.parameter("excludedAttributes"))
    }

    /// Whether the client has seen the version it wants to change (RFC 7644 section 3.14).
    fn check(&self, before: &Resource) -> Result<(), Error> {
        match &self.if_match {
            Some(given) if !names(given, &etag(before.version)) => {
                Err(Error::new(412, "the resource has been changed meanwhile: read it again"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a list of entity tags names this one, weak or strong.
fn names(given: &str, version: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    given.split(',').any(|tag| tag.trim() == "*" || bare(tag) == bare(version))
}

/// An id nobody can guess or has had before: a UUID of version 7 (RFC 9562), the moment and 74 random bits. Those made one after the other
/// stand side by side in the database, so that many of them reach the disk in one page instead of one each.
#[expect(
    clippy::disallowed_methods,
    reason = "ids of SCIM resources are drawn here; no plan depends on which they are"
)]
fn new_id(now: Timestamp) -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| Error::new(500, "the system gives no random numbers"))?;
    bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = format!("{:032x}", u128::from_be_bytes(bytes));
    Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_compared_weakly() {
        for given in ["W/\"3\"", "\"3\"", "*", "\"1\", W/\"3\"", "3"] {
            assert!(names(given, "W/\"3\""), "{given}");
        }
        for given in ["W/\"4\"", "", "\"33\""] {
            assert!(!names(given, "W/\"3\""), "{given}");
        }
    }

    #[test]
    fn ids_are_uuids_in_the_order_they_were_made_and_random_beyond_that() {
        let at = |ms| new_id(Timestamp(ms)).unwrap();
        let (one, other, later) = (at(0x0192_3456_789a), at(0x0192_3456_789a), at(0x0192_3456_789b));
        assert!(one.starts_with("01923456-789a-7") && other.starts_with("01923456-789a-7"), "{one} {other}");
        assert_ne!(one[15..], other[15..]);
        assert!(later > one && later > other);
        assert!(one.len() == 36 && "89ab".contains(&one[19..20]), "{one}");
    }
}
