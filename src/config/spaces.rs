//! `spaces`: which spaces there are and whose they are (S-12, S-15).

use super::provisioner::ENFORCE;
use super::rooms::{adopt, alias, external_id, grants, own_room, power_level};
use super::section::Section;
use super::tree::Value;
use super::value::Field;
use super::{FederatedGroup, Space};
use crate::ids::{SpaceId, UserId};

/// `None`: no `spaces` at all, mirror mode.
pub(super) fn spaces(root: &mut Section<'_>) -> Option<Vec<Space>> {
    let field = root.field("spaces")?;
    if matches!(&field.node.value, Value::Sequence(items) if items.is_empty()) {
        field.fail("is an empty list, which would abandon every space. List the spaces, or remove the key to mirror the directory");
        return None;
    }
    if field.is_scalar() {
        field.items();
        return None;
    }
    Some(field.one_or_more().iter().map(space).collect())
}

fn space(field: &Field<'_>) -> Space {
    let Some(mut section) = field.section() else { return nameless() };
    let space = Space {
        id: SpaceId::from(section.need("id", "engineering")),
        name: section.need("name", "'Engineering'"),
        topic: section.field("topic").and_then(|field| field.text()),
        avatar: section.field("avatar").and_then(|field| avatar(&field)),
        alias: section.field("alias").and_then(|field| alias(&field)),
        rooms: section.list("rooms").iter().map(own_room).collect(),
        enforce: section.field("enforce").and_then(|field| field.choice(ENFORCE)),
        federate: section.field("federate").and_then(|field| field.boolean()),
        adopt: section.field("adopt").and_then(|field| adopt(&field)),
        renamed_from: section.text("renamed_from").map(SpaceId::from),
        groups: section.field("groups").map(|list| grants(&list)).unwrap_or_default(),
        federated_groups: section.list("federatedGroups").iter().map(federated).collect(),
        subspaces: section.list("subspaces").iter().map(space).collect(),
    };
    if space.groups.is_empty() && space.federated_groups.is_empty() && space.subspaces.is_empty() {
        let message =
            "has no groups and no subspaces, so nobody would be in it: add `groups`, with externalId '' for everybody";
        section.report.advice(Some(&section.spot), &section.path, message);
    }
    section.finish();
    space
}

/// Keeps the number of an entry that is no mapping, so that later ones are reported at theirs.
fn nameless() -> Space {
    Space::named(SpaceId::from(""), String::new())
}

fn avatar(field: &Field<'_>) -> Option<String> {
    let text = field.filled()?;
    if !text.strip_prefix("mxc://").is_some_and(|rest| rest.contains('/')) {
        field.fail(format!(
            "must be a Matrix content URI such as mxc://example.com/abc, not {}: upload the picture to the homeserver first",
            field.shown()
        ));
        return None;
    }
    Some(text)
}

fn federated(field: &Field<'_>) -> FederatedGroup {
    let Some(mut section) = field.section() else {
        return FederatedGroup { external_id: String::new(), power_level: 0, agent: UserId::from("") };
    };
    let agent = section.field("agent");
    if agent.is_none() {
        section.missing("agent", "'@usher:partner.example'");
    }
    let group = FederatedGroup {
        external_id: external_id(&mut section),
        power_level: power_level(&mut section),
        agent: agent.and_then(|field| field.user_id()).unwrap_or_else(|| UserId::from("")),
    };
    section.finish();
    group
}
