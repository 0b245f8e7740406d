//! What the stand-in answers.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::tenant::{CLIENT, Photo, TENANT, Tenant};
use super::{Fault, Heard, Inside};

/// What Graph tells of a user unasked.
const DEFAULT: [&str; 11] = [
    "businessPhones",
    "displayName",
    "givenName",
    "id",
    "jobTitle",
    "mail",
    "mobilePhone",
    "officeLocation",
    "preferredLanguage",
    "surname",
    "userPrincipalName",
];
/// What it tells beside where it is asked to.
const MORE: [&str; 6] =
    ["accountEnabled", "userType", "mailNickname", "employeeId", "onPremisesSamAccountName", "department"];

/// Entries on a page where nobody says how many.
const USUAL_PAGE: usize = 100;

/// A request, by itself or within a batch.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub in_batch: bool,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub cut: bool,
}

impl Reply {
    fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned()), ("request-id", "7d4c-stand-in".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes(), cut: false }
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &error(code, message))
    }
}

/// An error as Graph writes it.
pub fn error(code: &str, message: &str) -> Value {
    json!({ "error": { "code": code, "message": message, "innerError": {
        "date": "2026-03-02T09:00:00", "request-id": "7d4c-stand-in", "client-request-id": "7d4c-stand-in" } } })
}

/// Names and values of a query or form, decoded.
fn pairs(query: &str) -> Vec<(String, String)> {
    let url = Url::parse(&format!("http://form.invalid/?{query}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

fn get<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

impl Inside {
    /// The reply to a request, and how late it comes.
    pub fn reply(&mut self, asked: Asked<'_>, bearer: Option<&str>, body: &[u8]) -> (Reply, Option<Duration>) {
        let path = asked.path.strip_prefix("/v1.0").unwrap_or(asked.path).to_owned();
        let query =
            pairs(asked.query).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let before = self.heard.iter().filter(|heard| heard.path == path && heard.query == query).count();
        let heard = Heard { method: asked.method.to_owned(), path, query, in_batch: asked.in_batch, before };
        let fault = self.rule.as_mut().and_then(|rule| rule(&heard));
        self.heard.push(heard.clone());
        let plain = |inside: &mut Self| inside.obey(asked, &heard, bearer, body);
        match fault {
            None => (plain(self), None),
            Some(Fault::Delay(delay)) => (plain(self), Some(delay)),
            Some(Fault::Cut) => (Reply { cut: true, ..plain(self) }, None),
            Some(Fault::Expire) => {
                self.tenant.tokens.clear();
                (plain(self), None)
            }
            Some(Fault::Answer(status, headers, body)) => {
                let mut reply = Reply::json(status, &body);
                reply.headers.extend(headers);
                (reply, None)
            }
            Some(Fault::Empty) => {
                let link = format!("{}{}?{}", self.tenant.url, asked.path, asked.query);
                (Reply::json(200, &json!({ "value": [], "@odata.nextLink": format!("{link}&again=1") })), None)
            }
            Some(Fault::Link(link)) => {
                let mut page: Value = serde_json::from_slice(&plain(self).body).unwrap();
                page["@odata.nextLink"] = link.into();
                (Reply::json(200, &page), None)
            }
        }
    }

    fn obey(&mut self, asked: Asked<'_>, heard: &Heard, bearer: Option<&str>, body: &[u8]) -> Reply {
        if heard.path.ends_with("/oauth2/v2.0/token") {
            return self.tenant.login(&heard.path, body);
        }
        let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !self.tenant.tokens.contains(token) {
            return Reply::error(401, "InvalidAuthenticationToken", &format!("Access token {token} is not valid."));
        }
        if heard.path == "/$batch" {
            return self.batch(bearer, body);
        }
        self.tenant.get(&heard.path, &pairs(asked.query), asked.query)
    }

    /// Answers in another order than asked.
    fn batch(&mut self, bearer: Option<&str>, body: &[u8]) -> Reply {
        let batch: Value = serde_json::from_slice(body).unwrap();
        let requests = batch["requests"].as_array().unwrap();
        if requests.len() > 20 {
            return Reply::error(400, "BadRequest", "Number of batch request steps exceeds the maximum value of 20.");
        }
        let mut responses = Vec::new();
        for request in requests.iter().rev() {
            let url = request["url"].as_str().unwrap();
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let method = request["method"].as_str().unwrap();
            let (reply, _) = self.reply(Asked { method, path, query, in_batch: true }, bearer, &[]);
            let headers: Map<String, Value> =
                reply.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            responses.push(json!({ "id": request["id"], "status": reply.status, "headers": headers, "body": body }));
        }
        Reply::json(200, &json!({ "responses": responses }))
    }
}

impl Tenant {
    fn login(&mut self, path: &str, form: &[u8]) -> Reply {
        let form = pairs(std::str::from_utf8(form).unwrap());
        let refuse = |status, error: &str, number: u64| {
            let description = format!("AADSTS{number}: A text that names the app and quotes {form:?}.");
            let body = json!({ "error": error, "error_description": description, "error_codes": [number],
                               "timestamp": "2026-03-02 09:00:00Z", "trace_id": "c0ffee-trace", "correlation_id": "c0ffee" });
            Reply::json(status, &body)
        };
        if path != format!("/{TENANT}/oauth2/v2.0/token") {
            return refuse(400, "invalid_request", 90_002);
        }
        if get(&form, "client_id") != Some(CLIENT) {
            return refuse(400, "unauthorized_client", 700_016);
        }
        if get(&form, "client_secret") != Some(&self.secret) {
            return refuse(401, "invalid_client", 7_000_215);
        }
        if get(&form, "grant_type") != Some("client_credentials")
            || !get(&form, "scope").is_some_and(|scope| scope.ends_with("/.default"))
        {
            return refuse(400, "invalid_scope", 1_002_012);
        }
        self.tokens_made += 1;
        let mut token = format!("canary-token-{}", self.tokens_made);
        if !self.roles.is_empty() {
            let claims = json!({ "aud": "graph", "roles": self.roles }).to_string();
            token = format!("{token}.{}.signature", Base64UrlUnpadded::encode_string(claims.as_bytes()));
        }
        self.tokens.insert(token.clone());
        Reply::json(200, &json!({ "token_type": "Bearer", "expires_in": self.token_life, "access_token": token }))
    }

    fn get(&mut self, path: &str, query: &[(String, String)], whole: &str) -> Reply {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let kind = match parts.as_slice() {
            ["groups", _, "members"] => "members",
            ["users", _, "photo" | "photos", ..] => "photos",
            [first, ..] => first,
            [] => "",
        };
        if self.denied.contains(kind) {
            return Reply::error(
                403,
                "Authorization_RequestDenied",
                "Insufficient privileges to complete the operation.",
            );
        }
        match parts.as_slice() {
            ["organization"] => {
                let entry = json!({ "id": TENANT, "displayName": self.name, "verifiedDomains": [] });
                Reply::json(200, &json!({ "value": [entry] }))
            }
            ["users"] => {
                let users: Vec<_> = self.users.values().cloned().collect();
                self.page(path, query, whole, &users, &DEFAULT)
            }
            ["groups"] => {
                let groups: Vec<_> =
                    self.groups.iter().map(|(id, (name, _))| listed(id, name, self.hidden.contains(id))).collect();
                self.page(path, query, whole, &groups, &["id", "displayName", "groupTypes", "visibility"])
            }
            ["groups", id, "members"] => match self.groups.get(*id) {
                Some(_) if self.hidden.contains(*id) => self.page(path, query, whole, &[], &["id", "displayName"]),
                Some((_, members)) => {
                    let members: Vec<_> = members.iter().map(|member| member.as_object().unwrap().clone()).collect();
                    self.page(path, query, whole, &members, &["id", "displayName"])
                }
                None => absent(id),
            },
            ["users", id, "photos", "240x240", "$value"] => self.photo(id, true),
            ["users", id, "photo", "$value"] => self.photo(id, false),
            _ => Reply::error(400, "Request_BadRequest", &format!("Resource not found for the segment '{kind}'.")),
        }
    }

    fn photo(&self, id: &str, sized: bool) -> Reply {
        if !self.users.contains_key(id) {
            return absent(id);
        }
        let picture = |bytes: &Vec<u8>| Reply {
            status: 200,
            headers: vec![("content-type", "image/jpeg".to_owned())],
            body: bytes.clone(),
            cut: false,
        };
        match self.photos.get(id) {
            Some(Photo::Sized(bytes)) => picture(bytes),
            Some(Photo::Whole(bytes)) if !sized => picture(bytes),
            Some(Photo::Refused(status, code)) => Reply::error(*status, code, "A text about ann@canary-mail.example."),
            Some(Photo::Whole(_)) | None => {
                let text =
                    "Exception of type 'Microsoft.Fast.Profile.Core.Exception.ImageNotFoundException' was thrown.";
                Reply::error(404, "ImageNotFound", text)
            }
        }
    }

    /// A part of a list, with an opaque link to the next.
    fn page(
        &mut self,
        path: &str,
        query: &[(String, String)],
        whole: &str,
        entries: &[Map<String, Value>],
        default: &[&str],
    ) -> Reply {
        let top = get(query, "$top").map_or(USUAL_PAGE, |top| top.parse().unwrap());
        if !(1..=999).contains(&top) {
            return Reply::error(400, "Request_UnsupportedQuery", "Invalid page size specified.");
        }
        let select: Vec<String> = match get(query, "$select") {
            Some(select) => select.split(',').map(str::to_owned).collect(),
            None => default.iter().map(|name| (*name).to_owned()).collect(),
        };
        let known = |name: &&String| DEFAULT.iter().chain(&MORE).chain(default).any(|known| known == *name);
        if let Some(odd) = select.iter().find(|name| !known(name)) {
            let text = format!("Could not find a property named '{odd}' on type 'microsoft.graph.user'.");
            return Reply::error(400, "Request_BadRequest", &text);
        }
        let bare = whole.split("&$skiptoken=").next().unwrap_or_default().split("&again=").next().unwrap_or_default();
        let from = match get(query, "$skiptoken") {
            None => 0,
            Some(token) => match self.links.get(token) {
                Some((place, from)) if *place == format!("{path}?{bare}") => *from,
                _ => {
                    return Reply::error(
                        400,
                        "Directory_ExpiredPageToken",
                        "The specified page token value has expired.",
                    );
                }
            },
        };
        let until = (from + top.min(self.page_cap)).min(entries.len());
        let value: Vec<Value> = entries[from..until].iter().map(|entry| shown(entry, &select)).collect();
        let mut page = json!({ "@odata.context": format!("{}/v1.0/$metadata#{path}", self.url), "value": value });
        if until < entries.len() {
            let token = format!("RFNwdAIAAQAAAB{:06x}", self.links.len());
            self.links.insert(token.clone(), (format!("{path}?{bare}"), until));
            page["@odata.nextLink"] = format!("{}/v1.0{path}?{bare}&$skiptoken={token}", self.url).into();
        }
        Reply::json(200, &page)
    }
}

fn listed(id: &str, name: &str, hidden: bool) -> Map<String, Value> {
    let visibility = hidden.then_some("HiddenMembership");
    let group =
        json!({ "id": id, "displayName": name, "groupTypes": [], "securityEnabled": true, "visibility": visibility });
    group.as_object().unwrap().clone()
}

/// What was selected, and what Graph always adds.
fn shown(entry: &Map<String, Value>, select: &[String]) -> Value {
    let wanted = |name: &String| name == "@odata.type" || select.contains(name);
    Value::Object(
        entry.iter().filter(|(name, _)| wanted(name)).map(|(name, value)| (name.clone(), value.clone())).collect(),
    )
}

fn absent(id: &str) -> Reply {
    let text =
        format!("Resource '{id}' does not exist or one of its queried reference-property objects are not present.");
    Reply::error(404, "Request_ResourceNotFound", &text)
}
