//! PATCH as each client writes it, refusals, and the simplest models there are.

use serde_json::json;

use super::*;
use crate::scim::schema::ENTERPRISE;

#[expect(clippy::needless_pass_by_value, reason = "JSON literals read best as arguments")]
fn patched(before: &Value, operations: Value) -> Result<Value, Error> {
    let mut document = before.as_object().unwrap().clone();
    let operations = parse(&json!({ "Operations": operations }))?;
    apply(Kind::User, &mut document, &operations)?;
    Ok(Value::Object(document))
}

fn ann() -> Value {
    json!({ "userName": "ann", "active": true })
}

#[expect(clippy::needless_pass_by_value, reason = "JSON literals read best as arguments")]
fn patched_members(operations: Value) -> Result<Vec<MemberChange>, Error> {
    let mut group = json!({ "displayName": "Blue" }).as_object().unwrap().clone();
    apply(Kind::Group, &mut group, &parse(&json!({ "Operations": operations })).unwrap())
}

fn members(operations: Value) -> Vec<MemberChange> {
    patched_members(operations).unwrap()
}

fn refused_members(operations: Value) -> Error {
    patched_members(operations).unwrap_err()
}

#[test]
fn entra_id_makes_the_typed_value_that_is_not_there_with_add_and_with_replace() {
    for op in ["Add", "Replace"] {
        let after = patched(
            &ann(),
            json!([
                { "op": op, "path": "emails[type eq \"work\"].value", "value": "ann@x" },
                { "op": op, "path": "addresses[type eq \"work\"].formatted", "value": "Street 1" },
                { "op": op, "path": "phoneNumbers[type eq \"mobile\"].value", "value": "+1" },
                { "op": op, "path": "name.familyName", "value": "A" },
                { "op": op, "path": format!("{}:department", ENTERPRISE.urn), "value": "D" },
            ]),
        );
        let expected = json!({
            "userName": "ann", "active": true, "name": { "familyName": "A" },
            "emails": [{ "type": "work", "value": "ann@x" }], "addresses": [{ "type": "work", "formatted": "Street 1" }],
            "phoneNumbers": [{ "type": "mobile", "value": "+1" }], ENTERPRISE.urn: { "department": "D" },
        });
        assert_eq!(after.unwrap(), expected);
    }
}

#[test]
fn entra_id_disables_with_a_text_and_okta_in_brackets() {
    for value in [json!("False"), json!("false"), json!(false), json!([false])] {
        let after = patched(&ann(), json!([{ "op": "Replace", "path": "active", "value": value }])).unwrap();
        assert_eq!(after["active"], false);
        let after = patched(&ann(), json!([{ "op": "replace", "value": { "active": value } }])).unwrap();
        assert_eq!(after["active"], false);
    }
}

#[test]
fn entra_id_with_its_flag_folds_changes_under_dotted_and_qualified_keys() {
    let value = json!({
        "displayName": "Ann", "name.givenName": "An", "name.familyName": "N", "emails[type eq \"work\"].value": "a@x",
        format!("{}:employeeNumber", ENTERPRISE.urn): "7",
        ENTERPRISE.urn: { "manager": { "value": "m" } }, "shoeSize": 40, "id": "x", "groups": [],
    });
    let after = patched(&ann(), json!([{ "op": "replace", "value": value }])).unwrap();
    let expected = json!({
        "userName": "ann", "active": true, "displayName": "Ann", "name": { "givenName": "An", "familyName": "N" },
        "emails": [{ "type": "work", "value": "a@x" }], ENTERPRISE.urn: { "employeeNumber": "7", "manager": { "value": "m" } },
    });
    assert_eq!(after, expected);
}

#[test]
fn entra_id_sends_the_manager_bare_and_in_brackets_and_the_old_url_goes() {
    let before = json!({ "userName": "ann", ENTERPRISE.urn: { "manager": { "value": "m", "$ref": "../Users/m" } } });
    for (path, value) in [
        ("manager".to_owned(), json!([{ "$ref": null, "value": "n" }])),
        (format!("{}:manager", ENTERPRISE.urn), json!("n")),
        (format!("{}:manager", ENTERPRISE.urn), json!({ "value": "n" })),
        (format!("{}:manager.value", ENTERPRISE.urn), json!("n")),
    ] {
        let after = patched(&before, json!([{ "op": "Replace", "path": path, "value": value }])).unwrap();
        assert_eq!(after[ENTERPRISE.urn], json!({ "manager": { "value": "n" } }));
    }
    let after = patched(&before, json!([{ "op": "Remove", "path": "manager" }])).unwrap();
    assert_eq!(after, json!({ "userName": "ann" }));
}

#[test]
fn a_list_of_members_to_remove_removes_these_and_no_others() {
    let changes = members(json!([{ "op": "Remove", "path": "members", "value": [{ "$ref": null, "value": "a" }] }]));
    assert!(matches!(&changes[..], [MemberChange::Remove(ids)] if ids == &["a"]));
    let changes = members(json!([{ "op": "remove", "path": "members", "value": [] }]));
    assert!(matches!(&changes[..], [MemberChange::Remove(ids)] if ids.is_empty()), "an empty list names nobody");
    let changes = members(json!([{ "op": "remove", "path": "members" }]));
    assert!(matches!(&changes[..], [MemberChange::Clear]));
    let changes = members(json!([{ "op": "remove", "path": "members[value eq \"a\"]" }]));
    assert!(matches!(&changes[..], [MemberChange::Remove(ids)] if ids == &["a"]));
    let changes = members(json!([{ "op": "remove", "path": "members[value eq \"a\" or value eq \"b\"]" }]));
    assert!(matches!(&changes[..], [MemberChange::Remove(ids)] if ids == &["a", "b"]));
    let changes = members(json!([{ "op": "remove", "path": "members[type eq \"Group\"]" }]));
    assert!(matches!(&changes[..], [MemberChange::RemoveWhere(_)]));
}

#[test]
fn a_filter_on_members_takes_nobody_in() {
    for op in ["add", "Replace"] {
        for value in [json!({ "value": "b" }), json!("b"), json!([{ "value": "b", "display": "B" }])] {
            for path in ["members[value eq \"a\"]", "members[type eq \"User\"]", "members[value eq \"a\"].value"] {
                let changes = members(json!([{ "op": op, "path": path, "value": value }]));
                assert!(matches!(&changes[..], [MemberChange::Keep(_, id)] if id == "b"), "{op} {path} {value}");
            }
        }
        for nobody in [json!(null), json!([]), json!({}), json!(["b", "c"]), json!({ "type": "User" }), json!(7)] {
            let operation = json!([{ "op": op, "path": "members[value eq \"a\"]", "value": nobody }]);
            assert_eq!(refused_members(operation).kind, Some("invalidValue"), "{op} {nobody}");
        }
    }
    for (path, kind) in [
        ("members[value eq \"a\"].value", "mutability"),
        ("members[value eq \"a\"].type", "mutability"),
        ("members.$ref", "mutability"),
        ("members[shoe eq \"a\"]", "invalidPath"),
    ] {
        assert_eq!(refused_members(json!([{ "op": "remove", "path": path }])).kind, Some(kind), "{path}");
    }
}

#[test]
fn one_request_looks_through_all_members_a_few_times_at_most() {
    let looks = |count: usize| -> Value {
        (0..count).map(|_| json!({ "op": "remove", "path": "members[type eq \"User\"]" })).collect()
    };
    assert_eq!(members(looks(MOST_LOOKS)).len(), MOST_LOOKS);
    assert_eq!(refused_members(looks(MOST_LOOKS + 1)).status, 413);
    let by_id = json!({ "op": "remove", "path": "members[value eq \"a\"]" });
    assert_eq!(members(vec![by_id; 1_000].into()).len(), 1_000);
}

#[test]
fn without_a_path_no_more_is_touched_than_with_one() {
    let touched = |count: usize| -> Result<Value, Error> {
        let entry = |number| (format!("roles[value eq \"{number}\"].display"), Value::Null);
        let value: serde_json::Map<String, Value> = (0..count).map(entry).collect();
        patched(&ann(), json!([{ "op": "replace", "value": value }]))
    };
    assert_eq!(touched(MOST_OPERATIONS).unwrap(), ann());
    assert_eq!(touched(MOST_OPERATIONS + 1).unwrap_err().status, 413);
}

#[test]
fn okta_renames_a_group_with_its_id_and_mixes_removals_and_additions() {
    let changes = members(json!([
        { "op": "replace", "value": { "id": "x", "displayName": "Red" } },
        { "op": "remove", "path": "members[value eq \"a\"]" },
        { "op": "add", "path": "members", "value": [{ "value": "b", "display": "B" }] },
        { "op": "replace", "path": "members", "value": [{ "value": "c" }] },
    ]));
    let expected: [fn(&MemberChange) -> bool; 4] = [
        |change| matches!(change, MemberChange::Remove(_)),
        |change| matches!(change, MemberChange::Add(_)),
        |change| matches!(change, MemberChange::Clear),
        |change| matches!(change, MemberChange::Add(_)),
    ];
    assert_eq!(changes.len(), 4);
    assert!(changes.iter().zip(expected).all(|(change, fits)| fits(change)), "{changes:?}");
}

#[test]
fn one_value_is_primary_at_most() {
    let before =
        json!({ "userName": "a", "emails": [{ "value": "1", "primary": true }, { "value": "2", "type": "home" }] });
    let expected = json!([{ "value": "1", "primary": false }, { "value": "2", "type": "home", "primary": true }]);
    let after = patched(&before, json!([{ "op": "add", "path": "emails[type eq \"home\"].primary", "value": true }]));
    assert_eq!(after.unwrap()["emails"], expected);
    let after =
        patched(&before, json!([{ "op": "add", "path": "emails", "value": [{ "value": "3", "primary": true }] }]));
    assert_eq!(after.unwrap()["emails"][0]["primary"], false);
    let twice = json!([{ "value": "1", "primary": true }, { "value": "2", "primary": true }]);
    let refused = patched(&before, json!([{ "op": "replace", "path": "emails", "value": twice }])).unwrap_err();
    assert_eq!(refused.kind, Some("invalidValue"));
}

#[test]
fn a_value_that_loses_its_mark_is_not_kept_twice() {
    let before = json!({ "userName": "a", "emails": [{ "value": "1", "primary": true }] });
    let new = json!([{ "value": "1", "primary": false }, { "value": "2", "primary": true }]);
    let after = patched(&before, json!([{ "op": "add", "path": "emails", "value": new }])).unwrap();
    assert_eq!(after["emails"], new);
    let again = patched(&after, json!([{ "op": "add", "path": "emails", "value": new }])).unwrap();
    assert_eq!(again, after);
}

#[test]
fn values_are_removed_by_path_filter_and_list() {
    let before = json!({ "userName": "a", "name": { "givenName": "g" }, "emails": [
        { "value": "1", "type": "work" }, { "value": "2", "type": "home" }] });
    for (operation, expected) in [
        (json!({ "op": "remove", "path": "emails[type eq \"work\"]" }), json!([{ "value": "2", "type": "home" }])),
        (
            json!({ "op": "remove", "path": "emails[type eq \"work\"].value" }),
            json!([{ "value": "2", "type": "home" }]),
        ),
        (
            json!({ "op": "remove", "path": "emails", "value": [{ "value": "1" }] }),
            json!([{ "value": "2", "type": "home" }]),
        ),
        (json!({ "op": "remove", "path": "emails.type" }), json!([{ "value": "1" }, { "value": "2" }])),
        (json!({ "op": "remove", "path": "emails[type eq \"other\"]" }), before["emails"].clone()),
        (json!({ "op": "remove", "path": "emails" }), Value::Null),
        (json!({ "op": "replace", "path": "emails", "value": [] }), Value::Null),
    ] {
        let after = patched(&before, json!([operation])).unwrap();
        assert_eq!(after.get("emails").cloned().unwrap_or_default(), expected, "{operation}");
    }
    let after = patched(&before, json!([{ "op": "remove", "path": "name.givenName" }])).unwrap();
    assert!(after.get("name").is_none());
}

#[test]
fn all_operations_are_done_or_none() {
    let before = ann();
    let mut document = before.as_object().unwrap().clone();
    let operations = json!({ "Operations": [
        { "op": "replace", "path": "displayName", "value": "X" }, { "op": "replace", "path": "shoeSize", "value": "40" }] });
    assert_eq!(apply(Kind::User, &mut document, &parse(&operations).unwrap()).unwrap_err().kind, Some("invalidPath"));
    assert_eq!(Value::Object(document), before);
}

#[test]
fn what_cannot_be_done_is_refused_with_its_type() {
    for (operation, kind) in [
        (json!({ "op": "remove" }), "noTarget"),
        (json!({ "op": "rename", "path": "title" }), "invalidSyntax"),
        (json!({ "op": "add", "path": "title" }), "invalidValue"),
        (json!({ "op": "add", "value": "x" }), "invalidValue"),
        (json!({ "op": "replace", "path": "id", "value": "x" }), "mutability"),
        (json!({ "op": "replace", "path": "groups", "value": [] }), "mutability"),
        (json!({ "op": "replace", "path": "meta.created", "value": "x" }), "mutability"),
        (json!({ "op": "remove", "path": "userName" }), "invalidValue"),
        (json!({ "op": "replace", "path": "userName", "value": null }), "invalidValue"),
        (json!({ "op": "replace", "path": "title[", "value": "x" }), "invalidPath"),
        (json!({ "op": "replace", "path": "title[a eq 1]", "value": "x" }), "invalidPath"),
        (json!({ "op": "replace", "path": "emails[shoe eq 1]", "value": {} }), "invalidPath"),
        (json!({ "op": "replace", "path": "emails[type sw \"w\"].value", "value": "x" }), "noTarget"),
        (json!({ "op": "replace", "path": "active", "value": 7 }), "invalidValue"),
    ] {
        let refused = patched(&ann(), json!([operation])).unwrap_err();
        assert_eq!((refused.status, refused.kind), (400, Some(kind)), "{operation}: {}", refused.detail);
    }
    assert_eq!(parse(&json!({ "Operations": [] })).unwrap_err().kind, Some("invalidSyntax"));
}

#[test]
fn what_others_know_changes_nothing() {
    let operations = json!([
        { "op": "add", "path": "urn:example:1.0:User:shoeSize", "value": "40" },
        { "op": "replace", "path": "password", "value": "secret" },
        { "op": "Add", "value": { "password": "secret", "urn:example:1.0:User": { "shoeSize": "40" } } },
    ]);
    assert_eq!(patched(&ann(), operations).unwrap(), ann());
}

mod model {
    //! PATCH on single attributes against the simplest model there is: a map.

    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["title", "nickName", "displayName", "locale"];

    fn step() -> impl Strategy<Value = (usize, bool, Option<String>)> {
        (0..NAMES.len(), any::<bool>(), proptest::option::of("[a-z]{0,3}"))
    }

    proptest! {
        #[test]
        fn single_attributes_behave_like_a_map(steps in proptest::collection::vec(step(), 1..12)) {
            let mut model = ann().as_object().unwrap().clone();
            let mut operations = Vec::new();
            for (at, bare, value) in &steps {
                let name = NAMES[*at];
                match value {
                    Some(text) if text.is_empty() => { model.remove(name); }
                    Some(text) => { model.insert(name.to_owned(), json!(text)); }
                    None => { model.remove(name); }
                }
                operations.push(match (value, bare) {
                    (None, _) => json!({ "op": "remove", "path": name }),
                    (Some(text), true) => json!({ "op": "Replace", "value": { name: text } }),
                    (Some(text), false) => json!({ "op": "add", "path": name, "value": text }),
                });
            }
            prop_assert_eq!(patched(&ann(), Value::Array(operations)).unwrap(), Value::Object(model));
        }

        #[test]
        fn several_values_behave_like_a_list_by_type(steps in proptest::collection::vec((0..3usize, proptest::option::of("[a-c]")), 1..12)) {
            const TYPES: [&str; 3] = ["work", "home", "other"];
            let mut model: Vec<(usize, String)> = Vec::new();
            let mut operations = Vec::new();
            for (kind, value) in &steps {
                let path = format!("emails[type eq \"{}\"]", TYPES[*kind]);
                if let Some(text) = value {
                    match model.iter_mut().find(|(known, _)| known == kind) {
                        Some((_, known)) => text.clone_into(known),
                        None => model.push((*kind, text.clone())),
                    }
                    operations.push(json!({ "op": "Replace", "path": format!("{path}.value"), "value": text }));
                } else {
                    model.retain(|(known, _)| known != kind);
                    operations.push(json!({ "op": "Remove", "path": path }));
                }
            }
            let expected: Vec<Value> =
                model.into_iter().map(|(kind, value)| json!({ "type": TYPES[kind], "value": value })).collect();
            let after = patched(&ann(), Value::Array(operations)).unwrap();
            let emails = after.get("emails").cloned().unwrap_or_else(|| json!([]));
            prop_assert_eq!(emails, Value::Array(expected));
        }

        #[test]
        fn no_path_and_no_value_is_too_odd(path in "\\PC{0,40}", value in "\\PC{0,20}") {
            let _ = patched(&ann(), json!([{ "op": "add", "path": path, "value": value }]));
            let _ = patched(&ann(), json!([{ "op": "replace", "value": { path: value } }]));
        }
    }
}
