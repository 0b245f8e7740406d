//! Resources as clients see them: with id, schemas, meta, URLs, members and groups, as much of it as is asked for.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::{Call, Refusal};
use crate::scim::access::Access;
use crate::scim::projection::Projection;
use crate::scim::{Document, Kind, etag};
use crate::store::scim::{Link, Resource, Resources};

/// A resource's own URL.
pub(super) fn location(base: &str, kind: Kind, id: &str) -> String {
    format!("{base}/{}/{id}", kind.endpoint())
}

/// Everything but members and groups.
pub(super) fn plain(base: &str, resource: Resource) -> Document {
    let kind = resource.kind;
    let mut schemas = vec![kind.schema().urn];
    schemas.extend(
        kind.extensions().iter().map(|extension| extension.urn).filter(|urn| resource.document.contains_key(*urn)),
    );
    let mut shown = resource.document;
    shown.insert("schemas".to_owned(), json!(schemas));
    shown.insert(
        "meta".to_owned(),
        json!({
            "resourceType": kind.name(),
            "created": time(resource.created),
            "lastModified": time(resource.modified),
            "location": location(base, kind, &resource.id),
            "version": etag(resource.version),
        }),
    );
    shown.insert("id".to_owned(), resource.id.into());
    shown
}

fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A group's members, as an attribute.
pub(super) fn members(base: &str, links: &[Link]) -> Value {
    let member = |link: &Link| match link.kind {
        Some(kind) => json!({ "value": link.id, "$ref": location(base, kind, &link.id), "type": kind.name() }),
        None => json!({ "value": link.id }),
    };
    links.iter().map(member).collect::<Vec<_>>().into()
}

/// A user's groups, as an attribute.
pub(super) fn groups(base: &str, links: &[Link]) -> Value {
    let group = |link: &Link| {
        let url = location(base, Kind::Group, &link.id);
        json!({ "value": link.id, "$ref": url, "display": link.display, "type": "direct" })
    };
    links.iter().map(group).collect::<Vec<_>>().into()
}

/// A resource with what it is linked to, of which an answer is made.
#[derive(Debug)]
pub(super) struct Linked {
    pub resource: Resource,
    /// A group's members or a user's groups; empty as well where they are not to be shown.
    pub links: Vec<Link>,
}

/// Resources of one kind, with what is to be shown of their links. Groups whose members are asked for are read once more, together with
/// these: an answer shows one state of a group. Those that are gone meanwhile are left out.
pub(super) async fn linked(
    resources: &Resources,
    call: &Call,
    found: Vec<Resource>,
    projection: &Projection,
) -> Result<Vec<Linked>, Refusal> {
    if found.first().is_some_and(|first| first.kind == Kind::Group) && projection.wants("members") {
        let pks: Vec<i64> = found.iter().map(|group| group.pk).collect();
        let groups = resources.with_members(&pks).await?;
        return Ok(groups.into_iter().map(|(resource, links)| Linked { resource, links }).collect());
    }
    let mut groups = groups_of(resources, call, &found, projection).await?;
    let with_groups = |resource: Resource| Linked { links: groups.remove(&resource.pk).unwrap_or_default(), resource };
    Ok(found.into_iter().map(with_groups).collect())
}

/// The groups of users, by the users' places in the order of creation, where they are to be shown.
pub(super) async fn groups_of(
    resources: &Resources,
    call: &Call,
    found: &[Resource],
    projection: &Projection,
) -> Result<BTreeMap<i64, Vec<Link>>, Refusal> {
    let grouped = found.iter().filter(|resource| resource.kind == Kind::User && resource.grouped);
    let pks: Vec<i64> = grouped.map(|user| user.pk).collect();
    if pks.is_empty() || !projection.wants("groups") || !call.roles.allow(Access::Read, Kind::Group) {
        return Ok(BTreeMap::new());
    }
    Ok(resources.groups(&pks).await?)
}

impl Linked {
    /// As it is answered.
    pub(super) fn shown(self, base: &str, projection: &Projection) -> Value {
        let kind = self.resource.kind;
        let mut document = plain(base, self.resource);
        if !self.links.is_empty() {
            match kind {
                Kind::Group => document.insert("members".to_owned(), members(base, &self.links)),
                Kind::User => document.insert("groups".to_owned(), groups(base, &self.links)),
            };
        }
        projection.apply(&mut document);
        Value::Object(document)
    }
}
