//! The shipped `OpenAPI` document against the server: its addresses and methods, its schemas, its limits. That answers have the form it
//! says is Schemathesis's part (`end_to_end::scim`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use usher::scim::route::{EVERY, Route};
use usher::scim::{Kind, bulk, document, filter, list, patch};

use super::{ENTERPRISE, GROUP, Scim, USER};
use crate::stores::Database;

/// What an object of the document's `paths` has beside methods.
const PARAMETERS: &str = "parameters";

fn shipped() -> Value {
    serde_yaml::from_str(include_str!("../../../docs/scim/openapi.yaml")).expect("YAML")
}

/// A route without the id in it.
fn shape(path: &str) -> String {
    match Route::parse(path).unwrap_or_else(|| panic!("the server has no {path}")) {
        Route::ResourceType(_) => "ResourceType".to_owned(),
        Route::Schema(_) => "Schema".to_owned(),
        Route::Resource(kind, _) => format!("Resource({kind:?})"),
        route => format!("{route:?}"),
    }
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn every_route_is_documented_and_every_documented_one_is_there() {
    let document = shipped();
    let served = EVERY.iter().flat_map(|path| {
        let methods = Route::parse(path).unwrap().methods();
        methods.iter().map(|method| (shape(path), method.to_ascii_lowercase()))
    });
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in keys(item).into_iter().filter(|key| *key != PARAMETERS) {
            assert!(documented.insert((shape(path), method.to_owned())), "{method} {path} is there twice");
        }
    }
    assert_eq!(documented, served.collect::<BTreeSet<_>>());
    assert_eq!(documented.len(), 26);
}

#[test]
fn every_operation_says_who_is_let_in_and_has_a_name_of_its_own() {
    let document = shipped();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != PARAMETERS) {
            let answers = keys(&operation["responses"]);
            assert!(["401", "403", "429", "503"].iter().all(|status| answers.contains(status)), "{method} {path}");
            assert!(!answers.contains("500") && !answers.contains("default"), "{method} {path}: anything goes");
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_nothing_is_left_over() {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.insert(reference.clone());
                }
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let document = shipped();
    let mut used = BTreeSet::new();
    collect(&document, &mut used);
    let components = document["components"].as_object().unwrap();
    let there: BTreeSet<String> = components
        .iter()
        .filter(|(kind, _)| *kind != "securitySchemes")
        .flat_map(|(kind, named)| keys(named).into_iter().map(move |name| format!("#/components/{kind}/{name}")))
        .collect();
    assert_eq!(used, there);
}

#[test]
fn its_limits_are_the_servers() {
    let document = shipped();
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Patch"]["properties"]["Operations"]["maxItems"], patch::MOST_OPERATIONS);
    assert_eq!(schemas["Bulk"]["properties"]["Operations"]["maxItems"], bulk::MOST_OPERATIONS);
    assert_eq!(schemas["Users"]["properties"]["itemsPerPage"]["maximum"], list::MOST);
    assert_eq!(schemas["Search"]["properties"]["filter"]["maxLength"], filter::LONGEST);
    for (schema, name) in [
        ("UserToWrite", "userName"),
        ("UserToWrite", "displayName"),
        ("GroupToWrite", "displayName"),
        ("GroupToWrite", "externalId"),
    ] {
        assert_eq!(schemas[schema]["properties"][name]["maxLength"], document::LONGEST_NAME, "{schema}.{name}");
    }
    let several = Kind::User.schema().attributes.iter().filter(|attribute| attribute.many && !attribute.is_read_only());
    let several: Vec<&str> = several.map(|attribute| attribute.name).collect();
    assert!(several.len() >= 8, "{several:?}");
    for name in several {
        let most = &schemas["UserToWrite"]["properties"][name]["maxItems"];
        assert_eq!(most, document::MOST_VALUES, "{name}");
    }
}

/// The schema that `/Schemas` describes, in the document's words: an attribute as it is read, or as it is written.
fn described(attribute: &Value, writing: bool) -> Value {
    let kind = match attribute["type"].as_str().unwrap() {
        "complex" => "object",
        "boolean" => "boolean",
        "string" | "dateTime" | "reference" | "binary" => "string",
        other => panic!("{other}: a type the document has no word for"),
    };
    let mut one = json!({ "type": kind });
    if kind == "object" {
        one["properties"] = properties(&attribute["subAttributes"], writing);
    }
    if attribute["multiValued"] == true { json!({ "type": "array", "items": one }) } else { one }
}

fn properties(attributes: &Value, writing: bool) -> Value {
    let attributes = attributes.as_array().unwrap().iter();
    let shown = attributes.filter(|attribute| !writing || attribute["mutability"] != "readOnly");
    shown
        .map(|attribute| (attribute["name"].as_str().unwrap().to_owned(), described(attribute, writing)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A schema of the document, with nothing but names and types.
fn bare(schema: &Value) -> Value {
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null").cloned().unwrap(),
        kind => kind.clone(),
    };
    let mut bare = json!({ "type": kind });
    if let Some(properties) = schema["properties"].as_object() {
        bare["properties"] = properties
            .iter()
            .map(|(name, schema)| (name.clone(), self::bare(schema)))
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    if schema["items"].is_object() {
        bare["items"] = self::bare(&schema["items"]);
    }
    bare
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_schemas_are_those_the_server_describes() {
    let database = Database::sqlite();
    let scim = Scim::on(&database).await;
    let described = scim.get("/Schemas").await;
    let document = shipped();
    let described = described["Resources"].as_array().unwrap();
    assert_eq!(described.len(), 3);
    for schema in described {
        let (name, common) = match schema["id"].as_str().unwrap() {
            USER => ("User", vec!["schemas", "id", "externalId", "meta", ENTERPRISE]),
            ENTERPRISE => ("EnterpriseUser", Vec::new()),
            GROUP => ("Group", vec!["schemas", "id", "externalId", "meta"]),
            other => panic!("{other} is not in the document"),
        };
        for (name, writing) in [(name.to_owned(), false), (format!("{name}ToWrite"), true)] {
            let mut own = document["components"]["schemas"][&name]["properties"].as_object().cloned().expect(&name);
            for common in common.iter().filter(|common| !writing || !["id", "meta"].contains(common)) {
                assert!(own.remove(*common).is_some(), "{name}: {common}");
            }
            let own: serde_json::Map<String, Value> =
                own.iter().map(|(name, schema)| (name.clone(), bare(schema))).collect();
            assert_eq!(Value::Object(own), properties(&schema["attributes"], writing), "{name}");
        }
    }
}
