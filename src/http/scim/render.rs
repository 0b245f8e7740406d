//! Resources as clients see them: with id, schemas, meta, URLs, members and groups, as much of it as is asked for.

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

/// Resources of one kind as they are answered.
pub(super) async fn whole(
    resources: &Resources,
    call: &Call,
    found: Vec<Resource>,
    projection: &Projection,
) -> Result<Vec<Value>, Refusal> {
    let Some(kind) = found.first().map(|resource| resource.kind) else { return Ok(Vec::new()) };
    let of_groups = kind == Kind::Group;
    let pks: Vec<i64> =
        found.iter().filter(|resource| of_groups || resource.grouped).map(|resource| resource.pk).collect();
    let (name, mut links) = match kind {
        Kind::Group if projection.wants("members") => ("members", resources.members(&pks).await?),
        Kind::User if !pks.is_empty() && projection.wants("groups") && call.roles.allow(Access::Read, Kind::Group) => {
            ("groups", resources.groups(&pks).await?)
        }
        Kind::User | Kind::Group => ("", std::collections::BTreeMap::new()),
    };
    let mut shown = Vec::with_capacity(found.len());
    for resource in found {
        let links = links.remove(&resource.pk).unwrap_or_default();
        let mut document = plain(&call.base, resource);
        if !links.is_empty() {
            let value = if kind == Kind::Group { members(&call.base, &links) } else { groups(&call.base, &links) };
            document.insert(name.to_owned(), value);
        }
        projection.apply(&mut document);
        shown.push(Value::Object(document));
    }
    Ok(shown)
}
