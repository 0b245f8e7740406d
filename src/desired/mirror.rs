//! Without `spaces:` the source's own tree is the mapping (S-15): each container a space under its parent's, ids the stable ids.

use std::collections::BTreeMap;

use crate::config::{GroupGrant, Space};
use crate::directory::{Directory, Group, GroupKind};
use crate::ids::StableId;

/// The mirrored tree, in the shape a configuration would have. Depth is the source's own.
pub(super) fn spaces(directory: &Directory) -> Vec<Space> {
    let mut below: BTreeMap<Option<&StableId>, Vec<&Group>> = BTreeMap::new();
    let root = directory.root();
    for group in directory.groups.values().filter(|group| group.kind == GroupKind::Container) {
        // A container whose parent was not read hangs under the root, or stands on its own where there is none.
        let parent =
            group.parent.as_ref().filter(|parent| directory.groups.contains_key(*parent)).or(root.map(|root| &root.id));
        below.entry(parent).or_default().push(group);
    }
    match root {
        Some(root) => {
            let mut top = space(root, &below);
            if let Some(organisation) = &directory.organisation {
                top.name.clone_from(organisation);
            }
            vec![top]
        }
        None => below.get(&None).into_iter().flatten().map(|group| space(group, &below)).collect(),
    }
}

fn space(group: &Group, below: &BTreeMap<Option<&StableId>, Vec<&Group>>) -> Space {
    let external_id = if group.kind == GroupKind::Root { String::new() } else { group.id.to_string() };
    Space {
        groups: vec![GroupGrant { external_id, power_level: 0 }],
        subspaces: below.get(&Some(&group.id)).into_iter().flatten().map(|child| space(child, below)).collect(),
        ..Space::named(group.id.as_str().into(), group.name.clone())
    }
}
