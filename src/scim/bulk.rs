//! Bulk requests (RFC 7644 section 3.7): several operations in one, which may refer to what others of them make.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Error;

/// Most operations in one request.
pub const MOST_OPERATIONS: usize = 1_000;
/// Largest body, in bytes.
pub const LARGEST: usize = 16 * 1024 * 1024;
/// URN of the answer.
pub const RESPONSE: &str = "urn:ietf:params:scim:api:messages:2.0:BulkResponse";

const PREFIX: &str = "bulkId:";
/// The same within a filter.
const QUOTED: &str = "\"bulkId:";

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub method: String,
    pub path: String,
    pub bulk_id: Option<String>,
    pub version: Option<String>,
    pub data: Value,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Stop after so many errors.
    pub fail_on_errors: Option<usize>,
    pub operations: Vec<Operation>,
}

/// Reads the body of a bulk request.
///
/// # Errors
/// `invalidSyntax` where it is none, 413 where it is too long.
pub fn parse(body: &Value) -> Result<Request, Error> {
    let Some(operations) = get(body, "Operations").and_then(Value::as_array) else {
        return Err(Error::invalid_syntax("Operations must be a list"));
    };
    if operations.len() > MOST_OPERATIONS {
        return Err(Error::new(413, format!("more than {MOST_OPERATIONS} operations (maxOperations)")));
    }
    let fail_on_errors = get(body, "failOnErrors").and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok());
    let operations: Vec<Operation> = operations.iter().map(operation).collect();
    let mut known = BTreeSet::new();
    for id in operations.iter().filter_map(|operation| operation.bulk_id.as_deref()) {
        if !known.insert(id) {
            return Err(Error::invalid_value("two operations have the same bulkId"));
        }
    }
    Ok(Request { fail_on_errors: fail_on_errors.filter(|most| *most > 0), operations })
}

fn get<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn operation(given: &Value) -> Operation {
    let text = |name: &str| get(given, name).and_then(Value::as_str).map(str::to_owned);
    Operation {
        method: text("method").unwrap_or_default().to_ascii_uppercase(),
        path: text("path").unwrap_or_default(),
        bulk_id: text("bulkId"),
        version: text("version"),
        data: get(given, "data").cloned().unwrap_or(Value::Null),
    }
}

impl Operation {
    /// The bulkIds it refers to.
    #[must_use]
    pub fn references(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        collect(&self.data, &mut found);
        if let Some(at) = self.path.find(PREFIX) {
            found.insert(self.path[at + PREFIX.len()..].to_owned());
        }
        found
    }

    /// Puts ids where it refers to what has been made.
    pub fn resolve(&mut self, made: &BTreeMap<String, String>) {
        if let Some((before, id)) =
            self.path.split_once(PREFIX).and_then(|(before, bulk_id)| Some((before, made.get(bulk_id)?)))
        {
            self.path = format!("{before}{id}");
        }
        put(&mut self.data, made);
    }

    /// How its result is reported.
    #[must_use]
    pub fn report(
        &self,
        status: u16,
        location: Option<String>,
        version: Option<String>,
        error: Option<Value>,
    ) -> Value {
        let mut report = json!({ "method": self.method, "status": status.to_string() });
        let bulk_id = self.bulk_id.clone();
        for (name, value) in [("bulkId", bulk_id), ("location", location), ("version", version)] {
            if let Some(value) = value {
                report[name] = value.into();
            }
        }
        if let Some(error) = error {
            report["response"] = error;
        }
        report
    }
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            if let Some(id) = text.strip_prefix(PREFIX) {
                found.insert(id.to_owned());
            }
            // Within the filter of a path, too.
            for rest in text.split(QUOTED).skip(1) {
                found.extend(rest.split('"').next().map(str::to_owned));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(map) => map.values().for_each(|item| collect(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn put(value: &mut Value, made: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(id) = text.strip_prefix(PREFIX).and_then(|bulk_id| made.get(bulk_id)) {
                id.clone_into(text);
            } else if text.contains(QUOTED) {
                *text = quoted(text, made);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| put(item, made)),
        Value::Object(map) => map.values_mut().for_each(|item| put(item, made)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text with ids where a filter in it names what has been made.
fn quoted(text: &str, made: &BTreeMap<String, String>) -> String {
    let mut parts = text.split(QUOTED);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let known = part.split_once('"').and_then(|(bulk_id, rest)| Some((made.get(bulk_id)?, rest)));
        match known {
            Some((id, rest)) => whole.extend(["\"", id, "\"", rest]),
            None => whole.extend([QUOTED, part]),
        }
    }
    whole
}

/// In which order to do the operations: each after those it refers to, otherwise as they stand. What refers to itself in a circle comes
/// last, and is not to be done.
#[must_use]
pub fn order(operations: &[Operation]) -> (Vec<usize>, Vec<usize>) {
    let makers: BTreeMap<&str, usize> =
        operations.iter().enumerate().filter_map(|(at, operation)| Some((operation.bulk_id.as_deref()?, at))).collect();
    let needs: Vec<BTreeSet<usize>> = operations
        .iter()
        .map(|operation| operation.references().iter().filter_map(|id| makers.get(id.as_str()).copied()).collect())
        .collect();
    let mut done = vec![false; operations.len()];
    let mut ordered = Vec::with_capacity(operations.len());
    loop {
        let before = ordered.len();
        for at in 0..operations.len() {
            if !done[at] && needs[at].iter().all(|need| done[*need]) {
                done[at] = true;
                ordered.push(at);
            }
        }
        if ordered.len() == before {
            let circular = (0..operations.len()).filter(|at| !done[*at]).collect();
            return (ordered, circular);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "JSON literals read best as arguments")]
    fn parsed(operations: Value) -> Vec<Operation> {
        parse(&json!({ "Operations": operations })).unwrap().operations
    }

    #[test]
    fn what_is_referred_to_is_made_first() {
        let operations = parsed(json!([
            { "method": "post", "path": "/Groups", "bulkId": "g", "data": { "members": [{ "value": "bulkId:u" }] } },
            { "method": "POST", "path": "/Users", "bulkId": "u", "data": {} },
            { "method": "PATCH", "path": "/Groups/bulkId:g", "data": { "Operations": [
                { "op": "remove", "path": "members[value eq \"bulkId:u\"]" }] } },
        ]));
        assert_eq!(order(&operations), (vec![1, 0, 2], vec![]));
        let made = BTreeMap::from([("g".to_owned(), "1".to_owned()), ("u".to_owned(), "2".to_owned())]);
        let mut last = operations[2].clone();
        last.resolve(&made);
        assert_eq!(last.path, "/Groups/1");
        assert_eq!(last.data["Operations"][0]["path"], "members[value eq \"2\"]");
        let mut first = operations[0].clone();
        first.resolve(&made);
        assert_eq!(first.data["members"][0]["value"], "2");
    }

    #[test]
    fn circles_are_found_and_long_lists_do_not_take_long() {
        let circle = parsed(json!([
            { "method": "POST", "path": "/Groups", "bulkId": "a", "data": { "members": [{ "value": "bulkId:b" }] } },
            { "method": "POST", "path": "/Groups", "bulkId": "b", "data": { "members": [{ "value": "bulkId:a" }] } },
            { "method": "POST", "path": "/Users", "bulkId": "c", "data": {} },
        ]));
        assert_eq!(order(&circle), (vec![2], vec![0, 1]));
        let same = json!({ "Operations": [{ "bulkId": "a" }, { "bulkId": "a" }] });
        assert_eq!(parse(&same).unwrap_err().kind, Some("invalidValue"));
    }
}
