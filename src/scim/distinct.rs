//! Telling the values of an attribute apart: the cost follows how many there are, not how many pairs of them.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A value with a place among others. Two have the same place exactly where they are equal; which comes first means nothing.
#[derive(Clone, Copy, Debug)]
struct Placed<'v>(&'v Value);

impl Ord for Placed<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let entries = |map| Map::iter(map).map(|(name, value)| (name, Placed(value)));
        match (self.0, other.0) {
            (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
            (Value::Number(one), Value::Number(other)) => one.to_string().cmp(&other.to_string()),
            (Value::String(one), Value::String(other)) => one.cmp(other),
            (Value::Array(one), Value::Array(other)) => one.iter().map(Placed).cmp(other.iter().map(Placed)),
            // A map gives its entries in the order of their names.
            (Value::Object(one), Value::Object(other)) => entries(one).cmp(entries(other)),
            (one, other) => rank(one).cmp(&rank(other)),
        }
    }
}

impl PartialOrd for Placed<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Placed<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Placed<'_> {}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

/// Each value where it stands first.
#[must_use]
pub fn once_each(values: Vec<Value>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let is_first: Vec<bool> = values.iter().map(|value| seen.insert(Placed(value))).collect();
    chosen(values, is_first)
}

/// Those of `new` that are not in `known`.
#[must_use]
pub fn not_among(known: &[Value], new: Vec<Value>) -> Vec<Value> {
    let mut unknown: BTreeSet<Placed<'_>> = new.iter().map(Placed).collect();
    for value in known {
        if unknown.is_empty() {
            return Vec::new();
        }
        unknown.remove(&Placed(value));
    }
    let is_unknown: Vec<bool> = new.iter().map(|value| unknown.contains(&Placed(value))).collect();
    chosen(new, is_unknown)
}

fn chosen(values: Vec<Value>, is_chosen: Vec<bool>) -> Vec<Value> {
    values.into_iter().zip(is_chosen).filter_map(|(value, is_chosen)| is_chosen.then_some(value)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Values that are often equal.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2_i64..3).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[ab]", inner, 0..3).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_equal_has_one_place(one in value(), other in value()) {
            prop_assert_eq!(Placed(&one).cmp(&Placed(&other)).is_eq(), one == other);
        }

        #[test]
        fn the_same_are_kept_as_by_looking_at_every_pair(
            known in proptest::collection::vec(value(), 0..12), new in proptest::collection::vec(value(), 0..12),
        ) {
            let mut kept: Vec<Value> = Vec::new();
            for value in &new {
                if !kept.contains(value) {
                    kept.push(value.clone());
                }
            }
            prop_assert_eq!(once_each(new.clone()), kept);
            let unknown: Vec<Value> = new.iter().filter(|value| !known.contains(value)).cloned().collect();
            prop_assert_eq!(not_among(&known, new), unknown);
        }
    }

    #[test]
    fn the_order_of_names_says_nothing() {
        let (one, other) = (r#"{"value":"a","type":"b"}"#, r#"{"type":"b","value":"a"}"#);
        let [one, other] = [one, other].map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(once_each(vec![one.clone(), other]), [one]);
    }

    /// Looking at every pair would take hours.
    #[test]
    fn very_many_values_are_told_apart() {
        let values: Vec<Value> = (0..300_000).map(|number| json!(number.to_string())).collect();
        assert_eq!(not_among(&values, values.clone()), [Value::Null; 0]);
        assert_eq!(once_each([values.clone(), values].concat()).len(), 300_000);
    }
}
