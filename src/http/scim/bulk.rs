//! Bulk requests: each operation done as if it had come alone, with the caller's roles, in an order in which references are known.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::render::location;
use super::{Answer, Call, Conditions, Refusal, Server};
use crate::scim::Error;
use crate::scim::bulk::{Operation, RESPONSE, order, parse};
use crate::scim::route::Route;

impl Server {
    pub(super) async fn bulk(&self, call: &Call, body: &Value) -> Result<Answer, Refusal> {
        let request = parse(body)?;
        let (ordered, circular) = order(&request.operations);
        let mut reports: BTreeMap<usize, Value> = BTreeMap::new();
        let mut made: BTreeMap<String, String> = BTreeMap::new();
        let mut errors = 0;
        for at in ordered.into_iter().chain(circular.iter().copied()) {
            if request.fail_on_errors.is_some_and(|most| errors >= most) {
                break;
            }
            let mut operation = request.operations[at].clone();
            let done = if circular.contains(&at) {
                Err(Error::new(409, "this operation refers to itself in a circle").into())
            } else {
                operation.resolve(&made);
                self.single(call, &operation).await
            };
            let about = resource_url(&call.base, &operation);
            let report = match done {
                Ok(answer) => {
                    if let (Some(bulk_id), Some(id)) =
                        (&operation.bulk_id, answer.location.as_deref().and_then(|url| url.rsplit('/').next()))
                    {
                        made.insert(bulk_id.clone(), id.to_owned());
                    }
                    operation.report(answer.status, answer.location.or(about), answer.version, None)
                }
                Err(refusal) => {
                    errors += 1;
                    let answer = refusal.answer();
                    operation.report(answer.status, about, None, answer.body)
                }
            };
            reports.insert(at, report);
        }
        let body = json!({ "schemas": [RESPONSE], "Operations": reports.into_values().collect::<Vec<_>>() });
        Ok(Answer { status: 200, body: Some(body), ..Answer::default() })
    }

    /// Boxed, because an operation is performed as a request is, and a request may be a bulk one.
    fn single<'s>(&'s self, call: &'s Call, operation: &'s Operation) -> BoxFuture<'s, Result<Answer, Refusal>> {
        Box::pin(self.performed(call, operation))
    }

    async fn performed(&self, call: &Call, operation: &Operation) -> Result<Answer, Refusal> {
        let method = operation.method.as_str();
        let route = Route::parse(&operation.path);
        let fitting = match &route {
            Some(Route::Collection(_)) => method == "POST",
            Some(Route::Resource(..)) => matches!(method, "PUT" | "PATCH" | "DELETE"),
            _ => false,
        };
        let Some(route) = route.filter(|_| fitting) else {
            return Err(Error::invalid_path("method and path must create, change or delete a user or group").into());
        };
        if method == "POST" && operation.bulk_id.is_none() {
            return Err(Error::invalid_syntax("a POST needs a bulkId").into());
        }
        if !operation.references().is_empty() {
            return Err(Error::invalid_value("this operation refers to a bulkId that was not made").into());
        }
        if !route.need(method).is_met(call.roles) {
            return Err(Error::new(403, "this credential does not allow that").into());
        }
        let conditions = Conditions {
            if_match: operation.version.clone(),
            // Nobody reads the resources of a bulk answer: their ids are enough.
            parameters: vec![("attributes".to_owned(), "id".to_owned())],
            ..Conditions::default()
        };
        self.perform(call, (method, route), &conditions, Ok(operation.data.clone())).await
    }
}

/// What an operation was about, whatever came of it; `None` for what is to be made (RFC 7644 section 3.7.3).
fn resource_url(base: &str, operation: &Operation) -> Option<String> {
    match Route::parse(&operation.path) {
        Some(Route::Resource(kind, id)) => Some(location(base, kind, &id)),
        _ => None,
    }
}
