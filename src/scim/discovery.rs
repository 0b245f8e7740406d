//! What the server says of itself (RFC 7643 sections 5 to 7, RFC 9865 section 3): exactly what is tested, nothing more.

use serde_json::{Value, json};

use super::list::{CURSOR_SECONDS, LIST, MOST, PAGE};
use super::schema::{Attribute, Mutability, Returned, Type};
use super::{Kind, Schema, bulk};

const CONFIG: &str = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig";
const RESOURCE_TYPE: &str = "urn:ietf:params:scim:schemas:core:2.0:ResourceType";
const SCHEMA: &str = "urn:ietf:params:scim:schemas:core:2.0:Schema";

/// `/ServiceProviderConfig`, for a server at `base`.
#[must_use]
pub fn service_provider_config(base: &str) -> Value {
    let supported = json!({ "supported": true });
    json!({
        "schemas": [CONFIG],
        "patch": supported,
        "bulk": { "supported": true, "maxOperations": bulk::MOST_OPERATIONS, "maxPayloadSize": bulk::LARGEST },
        "filter": { "supported": true, "maxResults": MOST },
        "changePassword": { "supported": false },
        "sort": supported,
        "etag": supported,
        "pagination": {
            "cursor": true, "index": true, "defaultPaginationMethod": "index", "defaultPageSize": PAGE, "maxPageSize": MOST,
            "cursorTimeout": CURSOR_SECONDS,
        },
        "authenticationSchemes": [{
            "type": "oauthbearertoken", "name": "Bearer token", "primary": true,
            "description": "A token from usher's configuration, sent as `Authorization: Bearer`",
        }],
        "meta": { "resourceType": "ServiceProviderConfig", "location": format!("{base}/ServiceProviderConfig") },
    })
}

/// One of `/ResourceTypes`, by its id.
#[must_use]
pub fn resource_type(base: &str, id: &str) -> Option<Value> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == id)?;
    let extensions: Vec<Value> =
        kind.extensions().iter().map(|extension| json!({ "schema": extension.urn, "required": false })).collect();
    let mut document = json!({
        "schemas": [RESOURCE_TYPE],
        "id": kind.name(),
        "name": kind.name(),
        "description": kind.schema().description,
        "endpoint": format!("/{}", kind.endpoint()),
        "schema": kind.schema().urn,
        "meta": { "resourceType": "ResourceType", "location": format!("{base}/ResourceTypes/{}", kind.name()) },
    });
    if !extensions.is_empty() {
        document["schemaExtensions"] = extensions.into();
    }
    Some(document)
}

/// `/ResourceTypes`.
#[must_use]
pub fn resource_types(base: &str) -> Value {
    all(&Kind::ALL.into_iter().filter_map(|kind| resource_type(base, kind.name())).collect::<Vec<_>>())
}

/// One of `/Schemas`, by its URN.
#[must_use]
pub fn schema(base: &str, urn: &str) -> Option<Value> {
    every_schema().into_iter().find(|schema| schema.urn.eq_ignore_ascii_case(urn)).map(|schema| describe(base, schema))
}

/// `/Schemas`.
#[must_use]
pub fn schemas(base: &str) -> Value {
    all(&every_schema().into_iter().map(|schema| describe(base, schema)).collect::<Vec<_>>())
}

fn every_schema() -> Vec<&'static Schema> {
    Kind::ALL
        .into_iter()
        .flat_map(|kind| std::iter::once(kind.schema()).chain(kind.extensions().iter().copied()))
        .collect()
}

fn all(resources: &[Value]) -> Value {
    json!({
        "schemas": [LIST], "totalResults": resources.len(), "itemsPerPage": resources.len(), "startIndex": 1,
        "Resources": resources,
    })
}

fn describe(base: &str, schema: &Schema) -> Value {
    json!({
        "schemas": [SCHEMA],
        "id": schema.urn,
        "name": schema.name,
        "description": schema.description,
        "attributes": schema.attributes.iter().map(attribute).collect::<Vec<_>>(),
        "meta": { "resourceType": "Schema", "location": format!("{base}/Schemas/{}", schema.urn) },
    })
}

fn attribute(attribute: &Attribute) -> Value {
    let kind = match attribute.kind {
        Type::Text => "string",
        Type::Boolean => "boolean",
        Type::DateTime => "dateTime",
        Type::Reference => "reference",
        Type::Binary => "binary",
        Type::Complex => "complex",
    };
    let mutability = match attribute.mutability {
        Mutability::ReadWrite => "readWrite",
        Mutability::ReadOnly => "readOnly",
        Mutability::Immutable => "immutable",
    };
    let returned = match attribute.returned {
        Returned::Always => "always",
        Returned::Default => "default",
    };
    let mut described = json!({
        "name": attribute.name,
        "type": kind,
        "multiValued": attribute.many,
        "description": attribute.description,
        "required": attribute.required,
        "mutability": mutability,
        "returned": returned,
        "uniqueness": if attribute.unique { "server" } else { "none" },
    });
    if !attribute.is_complex() && attribute.kind != Type::Boolean {
        described["caseExact"] = attribute.case_exact.into();
    }
    if !attribute.canonical.is_empty() {
        described["canonicalValues"] = attribute.canonical.into();
    }
    if !attribute.refers.is_empty() {
        described["referenceTypes"] = attribute.refers.into();
    }
    if attribute.is_complex() {
        described["subAttributes"] = attribute.sub.iter().map(self::attribute).collect::<Vec<_>>().into();
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_described_is_found_under_its_id() {
        let base = "https://example.com/scim";
        for described in schemas(base)["Resources"].as_array().unwrap() {
            let urn = described["id"].as_str().unwrap();
            assert_eq!(schema(base, urn).as_ref(), Some(described));
            assert_eq!(described["meta"]["location"], format!("{base}/Schemas/{urn}"));
        }
        assert_eq!(resource_types(base)["totalResults"], 2);
        assert!(resource_type(base, "Users").is_none());
        let text = schemas(base).to_string();
        assert!(!text.contains("password"), "usher keeps none");
    }
}
