//! Several files become one tree (S-95): maps merge, lists replace, `null` deletes. Every node keeps the place it was written at.
//! One exception: a `source` of another `type` replaces the earlier source whole, since the keys of one type mean nothing to another.

use super::section::same_key;
use super::tree::{Entry, Node, Value};

/// Lays `upper` over `lower`.
pub(super) fn over(lower: Node, upper: Node) -> Node {
    match (lower.value, upper.value) {
        (Value::Mapping(below), Value::Mapping(above)) => {
            Node { spot: lower.spot, value: Value::Mapping(entries(below, above)) }
        }
        (_, value) => Node { spot: upper.spot, value },
    }
}

fn entries(mut below: Vec<Entry>, above: Vec<Entry>) -> Vec<Entry> {
    for entry in above {
        let known = below
            .iter()
            .position(|known| known.key == entry.key)
            .or_else(|| below.iter().position(|known| same_key(&known.key, &entry.key)));
        match (known, &entry.value.value) {
            (Some(index), Value::Null) => {
                below.remove(index);
            }
            (Some(index), _) => {
                let earlier = below.remove(index);
                let replaced = entry.key == "source" && other_type(&earlier.value, &entry.value);
                let value = if replaced { entry.value } else { over(earlier.value, entry.value) };
                below.insert(index, Entry { key: entry.key, spot: entry.spot, value });
            }
            (None, Value::Null) => {}
            (None, _) => below.push(Entry { value: without_nulls(entry.value), ..entry }),
        }
    }
    below
}

/// A new mapping from a later file: its nulls have nothing to delete.
fn without_nulls(node: Node) -> Node {
    match node.value {
        Value::Mapping(inner) => Node { spot: node.spot, value: Value::Mapping(entries(Vec::new(), inner)) },
        value => Node { spot: node.spot, value },
    }
}

fn other_type(earlier: &Node, later: &Node) -> bool {
    matches!((type_of(earlier), type_of(later)), (Some(earlier), Some(later)) if earlier != later)
}

fn type_of(source: &Node) -> Option<&str> {
    let Value::Mapping(entries) = &source.value else { return None };
    match &entries.iter().find(|entry| entry.key == "type")?.value.value {
        Value::Scalar(scalar) => Some(&scalar.text),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
    }
}
