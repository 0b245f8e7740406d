//! Accounts through Matrix Authentication Service's admin API, where that is in charge of them (S-55).
//!
//! It answers before its jobs have told the homeserver: what is locked or unlocked is looked for on the homeserver too, where usher may
//! look there (`accounts.admin_token`, a personal session with Synapse's admin scope). Display names and avatars are no business of the service: they
//! are set as the person, through the puppet registration. Never sends a password, and never shows a mail address or a token.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{AccountBackend, AccountView, Link, Newcomer};
use crate::config;
use crate::ids::UserId;
use crate::ledger::normal_email;
use crate::matrix::{AccountRecord, Homeserver, MatrixError, Trouble};
use crate::plan::{Emails, End};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Entries of a list read at once, and how many pages at most: a person has few addresses, a homeserver few admins.
const PAGE: &str = "100";
const MOST_PAGES: usize = 20;
/// How often, and how far apart, the homeserver is looked at until a job has told it.
const JOB_LOOKS: u32 = 10;
const JOB_PAUSE: Duration = Duration::from_millis(500);
const ADMIN_SCOPE: &str = "grant_type=client_credentials&scope=urn%3Amas%3Aadmin";

/// The service, and the homeserver it keeps accounts for.
pub struct Mas {
    url: String,
    client_id: String,
    client_secret: SecretString,
    /// Drawn when first needed, and again when it is not accepted any more.
    token: Mutex<Option<SecretString>>,
    http: Client,
    homeserver: Homeserver,
    /// Whether Synapse's admin API can be asked, too.
    sees_homeserver: bool,
}

/// The service, where only to be asked who the server admins are: it can write nothing, so that a dry run may have it.
pub struct Roster(Mas);

impl Roster {
    /// Of the service that `mas` speaks with.
    #[must_use]
    pub fn new(mas: Mas) -> Self {
        Self(mas)
    }

    /// Everybody whom the service lets be a server admin, locked or not.
    ///
    /// # Errors
    /// When the service refuses or is away.
    pub async fn admins(&self) -> Result<BTreeSet<UserId>, MatrixError> {
        let list = self.0.admins("users?filter[admin]=true").await?;
        Ok(list.iter().filter_map(Person::of).filter_map(|person| self.0.named(&person)).collect())
    }
}

/// Somebody as the service knows them.
struct Person {
    /// A ULID, by which everything else goes.
    id: String,
    attributes: Value,
}

impl Person {
    fn of(data: &Value) -> Option<Self> {
        let id = data.get("id")?.as_str()?.to_owned();
        Some(Self { id, attributes: data.get("attributes").cloned().unwrap_or_default() })
    }

    fn has(&self, key: &str) -> bool {
        self.attributes.get(key).is_some_and(|value| !value.is_null() && *value != false)
    }
}

impl Mas {
    /// Speaks with the configured service. Makes no request.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new(mas: &config::Mas, homeserver: Homeserver, sees_homeserver: bool) -> Result<Self, MatrixError> {
        let http = Client::builder().timeout(LIMIT).build();
        let http = http.map_err(|error| failed("set up the HTTP client", &error.to_string(), Trouble::Malformed))?;
        Ok(Self {
            url: mas.url.trim_end_matches('/').to_owned(),
            client_id: mas.client_id.clone(),
            client_secret: mas.client_secret.clone(),
            token: Mutex::new(None),
            http,
            homeserver,
            sees_homeserver,
        })
    }

    /// A token of the client's own, with the service's admin scope.
    async fn token(&self, fresh: bool) -> Result<SecretString, MatrixError> {
        const ATTEMPT: &str = "get a token from Matrix Authentication Service";
        let mut token = self.token.lock().await;
        if let (Some(token), false) = (&*token, fresh) {
            return Ok(token.clone());
        }
        let request = self
            .http
            .post(format!("{}/oauth2/token", self.url))
            .basic_auth(&self.client_id, Some(self.client_secret.expose_secret()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(ADMIN_SCOPE);
        let answer = request.send().await.map_err(|error| away(ATTEMPT, error))?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        let drawn = body.get("access_token").and_then(Value::as_str).filter(|_| status.is_success());
        let Some(drawn) = drawn else {
            let said = body.get("error").and_then(Value::as_str).unwrap_or_default().to_owned();
            let cause = format!(
                "{status} {said}: are accounts.mas.client_id and its secret right, and is the client among admin_clients?"
            );
            return Err(failed(ATTEMPT, &cause, Trouble::UnknownToken));
        };
        let drawn = SecretString::from(drawn.to_owned());
        *token = Some(drawn.clone());
        Ok(drawn)
    }

    /// One request; the answer's JSON, or nothing where there is none such.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        attempt: &str,
    ) -> Result<Option<Value>, MatrixError> {
        let mut fresh = false;
        loop {
            let token = self.token(fresh).await?;
            let request = self.http.request(method.clone(), format!("{}/api/admin/v1/{path}", self.url));
            let request = request.bearer_auth(token.expose_secret());
            let request = match &body {
                Some(body) => request.json(body),
                None => request,
            };
            let answer = request.send().await.map_err(|error| away(attempt, error))?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && !fresh {
                fresh = true;
                continue;
            }
            if status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            if status.is_success() {
                let bytes = answer.bytes().await.map_err(|error| away(attempt, error))?;
                if bytes.is_empty() {
                    return Ok(Some(Value::Null));
                }
                let unread =
                    |_| failed(attempt, "Matrix Authentication Service's answer is no JSON", Trouble::Malformed);
                return serde_json::from_slice(&bytes).map(Some).map_err(unread);
            }
            let trouble = match status.as_u16() {
                401 => Trouble::UnknownToken,
                403 => Trouble::Forbidden,
                429 => Trouble::RateLimited,
                500.. => Trouble::Away,
                _ => Trouble::Rejected,
            };
            let mut error = failed(attempt, &format!("Matrix Authentication Service says {status}"), trouble);
            error.status = Some(status.as_u16());
            return Err(error);
        }
    }

    async fn person(&self, user: &UserId) -> Result<Option<Person>, MatrixError> {
        let path = format!("users/by-username/{}", escaped(user.localpart()));
        let found = self.call(Method::GET, &path, None, &format!("look at the account {user}")).await?;
        Ok(found.as_ref().and_then(|found| Person::of(found.get("data")?)))
    }

    fn named(&self, person: &Person) -> Option<UserId> {
        Some(UserId::new(person.attributes.get("username")?.as_str()?, self.homeserver.bot().server()))
    }

    /// Does something to somebody who must be there.
    async fn act(&self, user: &UserId, deed: &str, body: Option<Value>) -> Result<(), MatrixError> {
        let attempt = format!("{deed} {user}");
        let missing = || failed(&attempt, "there is no such account", Trouble::NotFound);
        let person = self.person(user).await?.ok_or_else(missing)?;
        let path = format!("users/{}/{deed}", person.id);
        self.call(Method::POST, &path, Some(body.unwrap_or_else(|| json!({}))), &attempt).await?.ok_or_else(missing)?;
        Ok(())
    }

    /// A list, page after page, whole or not at all; nothing where there is none such.
    async fn list(&self, path: &str, attempt: &str) -> Result<Option<Vec<Value>>, MatrixError> {
        let mut all = Vec::new();
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let page = format!("{path}&page[first]={PAGE}{after}");
            let Some(answer) = self.call(Method::GET, &page, None, attempt).await? else { return Ok(None) };
            let Some(data) = answer.get("data").and_then(Value::as_array).cloned() else {
                return Err(failed(attempt, "Matrix Authentication Service's answer is no list", Trouble::Malformed));
            };
            let last = data.last().and_then(|entry| entry.get("id")?.as_str().map(str::to_owned));
            all.extend(data);
            let more = answer.pointer("/links/next").is_some_and(Value::is_string);
            match last.filter(|_| more) {
                Some(last) => after = format!("&page[after]={last}"),
                None => return Ok(Some(all)),
            }
        }
        Err(failed(attempt, "Matrix Authentication Service's list does not end", Trouble::Malformed))
    }

    /// Who the server admins are, all of them or an error: whoever is missing would be taken for somebody to be removed.
    async fn admins(&self, path: &str) -> Result<Vec<Value>, MatrixError> {
        let attempt = "list the server admins";
        let missing = || failed(attempt, "Matrix Authentication Service has no such list", Trouble::Malformed);
        self.list(path, attempt).await?.ok_or_else(missing)
    }

    /// Addresses with the ids they are deleted by.
    async fn emails_of(&self, id: &str) -> Result<Vec<(String, String)>, MatrixError> {
        let list =
            self.list(&format!("user-emails?filter[user]={id}"), "list the mail addresses of an account").await?;
        let list = list.unwrap_or_default();
        let pair = |entry: &Value| {
            let email = entry.pointer("/attributes/email")?.as_str()?.to_owned();
            Some((entry.get("id")?.as_str()?.to_owned(), email))
        };
        Ok(list.iter().filter_map(pair).collect())
    }

    /// Waits until a job has told the homeserver of what the service has accepted, where that can be seen. Whatever goes wrong with that,
    /// the service has done it: what came of it on the homeserver is not known.
    async fn until(&self, user: &UserId, what: &str, told: impl Fn(&AccountRecord) -> bool) -> Result<(), MatrixError> {
        if !self.sees_homeserver {
            return Ok(());
        }
        for _ in 0..JOB_LOOKS {
            match self.homeserver.account(user).await.map_err(unseen)? {
                Some(record) if !told(&record) => tokio::time::sleep(JOB_PAUSE).await,
                Some(_) | None => return Ok(()),
            }
        }
        let cause = "the service took it, and its job has not told the homeserver yet";
        Err(failed(&format!("{what} {user}"), cause, Trouble::Away))
    }
}

impl Mas {
    /// Whose the first thing of a list is.
    async fn owner(&self, list: &str, attempt: &str) -> Result<Option<UserId>, MatrixError> {
        let found = self.list(list, attempt).await?.unwrap_or_default();
        let id = found.first().and_then(|entry| entry.pointer("/attributes/user_id")?.as_str());
        let Some(id) = id else { return Ok(None) };
        let owner = self.call(Method::GET, &format!("users/{id}"), None, attempt).await?;
        let name = owner.and_then(|owner| owner.pointer("/data/attributes/username")?.as_str().map(str::to_owned));
        Ok(name.map(|name| UserId::new(&name, self.homeserver.bot().server())))
    }

    /// Waits until a job has made somebody known to the homeserver, where that can be seen.
    async fn until_there(&self, user: &UserId) -> Result<(), MatrixError> {
        if !self.sees_homeserver {
            return Ok(());
        }
        for _ in 0..JOB_LOOKS {
            if self.homeserver.account(user).await?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(JOB_PAUSE).await;
        }
        let cause = "the service took it, and its job has not told the homeserver yet";
        Err(failed(&format!("make the account {user}"), cause, Trouble::Away))
    }
}

#[async_trait]
impl AccountBackend for Mas {
    async fn look(&self, user: &UserId) -> Result<Option<AccountView>, MatrixError> {
        let Some(person) = self.person(user).await? else {
            // Accounts of application services are the homeserver's alone.
            let seen = if self.sees_homeserver { self.homeserver.account(user).await? } else { None };
            return Ok(seen.map(|record| AccountView {
                admin: record.admin,
                of_a_service: true,
                display_name: record.display_name,
                avatar: record.avatar,
                ..AccountView::default()
            }));
        };
        let record = if self.sees_homeserver { self.homeserver.account(user).await? } else { None };
        let record = record.unwrap_or_default();
        let emails = self.emails_of(&person.id).await?.into_iter().map(|(_, email)| email).collect();
        Ok(Some(AccountView {
            admin: person.has("admin") || record.admin,
            locked: person.has("locked_at"),
            deactivated: person.has("deactivated_at"),
            erased: record.erased,
            of_a_service: record.service.is_some(),
            display_name: record.display_name,
            avatar: record.avatar,
            emails: Emails(emails),
        }))
    }

    async fn lock(&self, user: &UserId) -> Result<(), MatrixError> {
        self.act(user, "lock", None).await?;
        self.until(user, "lock", |record| record.locked).await
    }

    async fn unlock(&self, user: &UserId) -> Result<(), MatrixError> {
        self.act(user, "unlock", None).await?;
        self.until(user, "unlock", |record| !record.locked).await
    }

    /// The service erases unless told not to.
    async fn end(&self, user: &UserId, end: End) -> Result<(), MatrixError> {
        self.act(user, "deactivate", Some(json!({ "skip_erase": end == End::Deactivate }))).await
    }

    async fn has_ended(&self, user: &UserId, end: End) -> Result<bool, MatrixError> {
        let gone = self.person(user).await?.is_none_or(|person| person.has("deactivated_at"));
        if !gone || !self.sees_homeserver {
            return Ok(gone);
        }
        let Some(record) = self.homeserver.account(user).await? else { return Ok(true) };
        let done = record.deactivated && (record.erased || end == End::Deactivate);
        Ok(done && self.homeserver.count_rooms_of(user).await? == 0)
    }

    async fn reactivate(&self, user: &UserId) -> Result<(), MatrixError> {
        self.act(user, "reactivate", None).await
    }

    async fn set_display_name(&self, user: &UserId, name: &str) -> Result<(), MatrixError> {
        self.homeserver.set_name_as(user, name).await
    }

    async fn set_avatar(&self, user: &UserId, url: Option<&str>) -> Result<(), MatrixError> {
        self.homeserver.set_avatar_as(user, url).await
    }

    async fn set_emails(&self, user: &UserId, emails: &Emails) -> Result<(), MatrixError> {
        let attempt = format!("set the mail addresses of {user}");
        let person = self.person(user).await?;
        let person = person.ok_or_else(|| failed(&attempt, "there is no such account", Trouble::NotFound))?;
        let standing = self.emails_of(&person.id).await?;
        let known = |address: &String| standing.iter().any(|(_, email)| normal_email(email) == *address);
        // New ones first: nobody is without an address in between.
        for address in emails.0.iter().filter(|address| !known(address)) {
            let body = json!({ "user_id": person.id, "email": address });
            self.call(Method::POST, "user-emails", Some(body), &attempt).await?;
        }
        for (id, _) in standing.iter().filter(|(_, email)| !emails.0.contains(&normal_email(email))) {
            self.call(Method::DELETE, &format!("user-emails/{id}"), None, &attempt).await?;
        }
        Ok(())
    }

    async fn owner_of_email(&self, address: &str) -> Result<Option<UserId>, MatrixError> {
        let attempt = "ask whose a mail address is";
        self.owner(&format!("user-emails?filter[email]={}", escaped(address)), attempt).await
    }

    /// The service keeps no display names: that is set with the other attributes, where those are wanted.
    async fn register(&self, newcomer: &Newcomer) -> Result<(), MatrixError> {
        let user = &newcomer.user;
        let attempt = format!("make the account {user}");
        let body = json!({ "username": user.localpart() });
        let made = match self.call(Method::POST, "users", Some(body), &attempt).await {
            // Begun by an earlier call.
            Err(error) if error.status == Some(409) => self.person(user).await?.ok_or(error)?,
            other => {
                let person = other?.as_ref().and_then(|made| Person::of(made.get("data")?));
                person.ok_or_else(|| failed(&attempt, "the service does not say whom it made", Trouble::Malformed))?
            }
        };
        if let Some(link) = &newcomer.link
            && self.owner_of_link(link).await?.as_ref() != Some(user)
        {
            let body = json!({ "user_id": made.id, "provider_id": link.provider, "subject": link.subject });
            let linked = self.call(Method::POST, "upstream-oauth-links", Some(body), &attempt).await?;
            let cause = "the service knows no upstream provider by client.single_sign_on.provider";
            linked.ok_or_else(|| failed(&attempt, cause, Trouble::NotFound))?;
        }
        self.until_there(user).await
    }

    async fn owner_of_link(&self, link: &Link) -> Result<Option<UserId>, MatrixError> {
        let attempt = "ask whose a single sign-on id is";
        let (provider, subject) = (escaped(&link.provider), escaped(&link.subject));
        let path = format!("upstream-oauth-links?filter[provider]={provider}&filter[subject]={subject}");
        self.owner(&path, attempt).await
    }

    fn is_apart(&self) -> bool {
        true
    }

    async fn usable_admins(&self) -> Result<BTreeSet<UserId>, MatrixError> {
        let list = self.admins("users?filter[admin]=true&filter[status]=active").await?;
        let people = list.iter().filter_map(Person::of);
        let usable = people.filter(|person| !person.has("locked_at") && !person.has("deactivated_at"));
        Ok(usable.filter_map(|person| self.named(&person)).collect())
    }
}

/// A look that failed after the service had accepted a write.
fn unseen(error: MatrixError) -> MatrixError {
    let cause = format!("the service took it; what came of it cannot be seen on the homeserver: {}", error.cause);
    MatrixError { cause, code: None, trouble: Trouble::Away, ..error }
}

fn failed(attempted: &str, cause: &str, trouble: Trouble) -> MatrixError {
    MatrixError { attempted: attempted.to_owned(), cause: cause.to_owned(), status: None, code: None, trouble }
}

fn away(attempted: &str, error: reqwest::Error) -> MatrixError {
    failed(attempted, &format!("Matrix Authentication Service: {}", error.without_url()), Trouble::Away)
}

/// Percent-encodes what has a meaning in paths and queries.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
