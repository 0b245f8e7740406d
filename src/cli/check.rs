//! `usher check`: everything that can be found out before anything is done, with what to do about it. Writes nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Exit, printed, problem_list};
use crate::app::{self, Failure};
use crate::config::{self, AccountsBackend, Config};
use crate::ids::UserId;
use crate::matrix::registration::{self, Registration};
use crate::matrix::{Homeserver, MatrixError, Promotion, Rung};
use crate::observed::{Accounts, Presence};
use crate::plan::{self, Note, Scope};
use crate::store::{Backend, Store};

/// Checks configuration, source, registration, homeserver and mapping; the exit code is that of the worst finding.
pub(super) async fn run(files: &[PathBuf]) -> Result<Exit, Failure> {
    let (config, advice) = match config::load(files).strict() {
        Ok(loaded) => loaded,
        Err(problems) => return Err(Failure::new(Exit::Config, problem_list(&problems))),
    };
    crate::observability::start_logging(&config.logging);
    let mut report = Report::default();
    report.ok("configuration", "reads well");
    for problem in advice {
        report.advice("configuration", &problem.to_string());
    }
    report.source(&config).await;
    report.mail(&config);
    report.database(&config).await;
    if let Some(homeserver) = report.homeserver(&config).await {
        report.mapping(&config, &homeserver).await;
    }
    let verdict = match report.exit {
        Exit::Done => "Everything usher needs is there.",
        _ => "Not everything is well: see FAILED above.",
    };
    report.out.push_str(verdict);
    report.out.push('\n');
    let _ = printed(&report.out);
    Ok(report.exit)
}

/// What is not known without admin rights, and what follows from it.
const UNSEEN: &str = "without admin rights usher cannot see who is a server admin and which accounts belong to other services: these are \
     not protected as such. Name them in provisioner.protected_users";

/// Matrix Authentication Service is in charge, and usher would ask the homeserver.
const DELEGATED: &str = "the homeserver has handed its accounts over to Matrix Authentication Service: there an application service has no \
     admin rights on accounts. Write accounts: { backend: mas, mas: { url, client_id, client_secret_file } } with a client that the service \
     lists under policy.data.admin_clients, or backend: none";

/// Without a session of its own usher sees no list of accounts.
const NO_SESSION: &str = "usher cannot list accounts: give it accounts.admin_token_file with a personal session of Matrix Authentication \
     Service for Synapse's admin scope. To make one, get a token of the client (POST oauth2/token, scope urn:mas:admin), find the id of the \
     account it is to act as (GET api/admin/v1/users/by-username/NAME), and POST to api/admin/v1/personal-sessions {\"actor_user_id\": ID, \
     \"human_name\": \"usher\", \"scope\": \"openid urn:synapse:admin:* urn:matrix:client:api:*\"}: the answer's access_token goes into the file \
     (docs/accounts.md has the four commands)";

/// The homeserver goes by another name than the configuration says.
fn misnamed(config: &Config, server: &str) -> String {
    let config::Homeserver { url, server_name, .. } = &config.homeserver;
    format!(
        "homeserver.server_name is '{server_name}', but the homeserver at {url} calls itself '{server}': write server_name: {server}, \
         or another homeserver.url. Registrations made for '{server_name}' have to be generated again"
    )
}

struct Report {
    out: String,
    exit: Exit,
}

impl Default for Report {
    fn default() -> Self {
        Self { out: String::new(), exit: Exit::Done }
    }
}

impl Report {
    fn line(&mut self, verdict: &str, what: &str, text: &str) {
        for (at, line) in text.lines().enumerate() {
            let (verdict, what) = if at == 0 { (verdict, what) } else { ("", "") };
            let _ = writeln!(self.out, "{verdict:<7} {what:<14} {line}");
        }
    }

    fn ok(&mut self, what: &str, text: &str) {
        self.line("ok", what, text);
    }

    fn advice(&mut self, what: &str, text: &str) {
        self.line("advice", what, text);
    }

    fn failed(&mut self, what: &str, text: &str, exit: Exit) {
        let text = text.strip_prefix(what).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
        self.line("FAILED", what, text);
        if self.exit == Exit::Done || exit == Exit::Config {
            self.exit = exit;
        }
    }

    async fn source(&mut self, config: &Config) {
        let mut bridge = match app::source(config) {
            Ok(bridge) => bridge,
            Err(failure) => return self.failed("source", &failure.text, failure.exit),
        };
        for probe in bridge.probe().await {
            if probe.ok {
                self.ok(&format!("source {}", probe.step), &probe.detail);
            } else {
                self.failed(&format!("source {}", probe.step), &probe.detail, Exit::Unreachable);
            }
        }
    }

    /// Whether those who are to be told can be (S-97).
    fn operators(&mut self, operators: &[UserId], (server, accounts): (&str, &Accounts)) {
        let is_missing =
            |operator: &&UserId| operator.server() == server && accounts.presence(operator) == Presence::Missing;
        let (missing, told): (Vec<&UserId>, Vec<&UserId>) = operators.iter().partition(is_missing);
        for operator in missing {
            self.advice("operators", &format!("{operator} has no account: nobody reads what usher tells them"));
        }
        if !told.is_empty() {
            let count = plan::counted(told.len() as u64, "is", "are");
            let text =
                format!("{count} told of holds, lasting failures and locks in a Matrix room while `usher run` runs");
            self.ok("operators", &text);
        }
    }

    fn mail(&mut self, config: &Config) {
        match app::post(config) {
            Ok(None) => {}
            Ok(Some(_)) => self.ok("mail", "every template can be filled in"),
            Err(failure) => self.failed("mail", &failure.text, failure.exit),
        }
    }

    async fn database(&mut self, config: &Config) {
        match Store::look(&config.database_url).await {
            Ok(Some(store)) => {
                let text = match store.backend() {
                    Backend::Sqlite(path) => format!("SQLite, {}", path.display()),
                    Backend::Postgres => "PostgreSQL".to_owned(),
                };
                store.close().await;
                self.ok("database", &text);
            }
            Ok(None) if config.database_url.starts_with("sqlite:") => {
                self.ok("database", "SQLite, made at the first apply");
            }
            Ok(None) => self.ok("database", "PostgreSQL, its tables are made at the first apply"),
            Err(error) => {
                let failure = Failure::from(error);
                self.failed("database", &failure.text, failure.exit);
            }
        }
    }

    async fn homeserver(&mut self, config: &Config) -> Option<Homeserver> {
        let main = match registration::read(&config.appservice.registration) {
            Ok(main) => main,
            Err(error) => {
                self.failed("registration", &error.to_string(), Exit::Config);
                return None;
            }
        };
        let stranger = UserId::new("usher-check-nobody", &config.homeserver.server_name);
        if main.admits(&stranger) {
            self.advice(
                "registration",
                "its users cover the whole server: that equals server admin plus a copy of every private chat; \
                 `usher registration generate` writes a narrow one",
            );
        } else {
            self.ok("registration", "covers the bot and usher's aliases only");
        }
        self.transactions(config, &main);
        let homeserver = match app::homeserver(config).await {
            Ok(homeserver) => homeserver,
            Err(failure) => {
                self.failed("homeserver", &failure.text, failure.exit);
                return None;
            }
        };
        let looked = async { Ok::<_, MatrixError>((homeserver.taken_for().await?, homeserver.rung().await?)) };
        match looked.await {
            Ok((who, rung)) => {
                if let Some(server) = who.as_ref().map(UserId::server).filter(|it| *it != config.homeserver.server_name)
                {
                    self.failed("homeserver", &misnamed(config, server), Exit::Config);
                    return None;
                }
                self.rung(config, &homeserver, rung);
            }
            Err(error) => {
                let failure = Failure::from(error).located(config);
                self.failed("homeserver", &failure.text, failure.exit);
                return None;
            }
        }
        self.delegation(config, &homeserver).await;
        Some(homeserver)
    }

    /// Whether the registration brings transactions to where usher takes them. Nothing depends on it but how soon usher wakes.
    fn transactions(&mut self, config: &Config, main: &Registration) {
        const REMEDY: &str = "run `usher registration generate` and restart Synapse";
        match (config.appservice.transactions_url(), &main.url) {
            (None, None) => {}
            (Some(wanted), Some(url)) if *url == wanted => {
                self.ok("transactions", &format!("the homeserver brings them to {url}"));
            }
            (Some(wanted), Some(url)) => self.advice(
                "transactions",
                &format!(
                    "the registration has the homeserver bring them to {url}, but appservice takes them at {wanted}: {REMEDY}"
                ),
            ),
            (Some(wanted), None) => self.advice(
                "transactions",
                &format!("appservice takes them at {wanted}, but the registration names no url: {REMEDY}"),
            ),
            (None, Some(url)) => self.advice(
                "transactions",
                &format!(
                    "the registration has the homeserver bring them to {url}, but appservice.listen is not set: Synapse keeps \
                     them for usher for ever. Set it, or {REMEDY}"
                ),
            ),
        }
    }

    fn rung(&mut self, config: &Config, homeserver: &Homeserver, rung: Rung) {
        match rung {
            Rung::Admin => self.ok("homeserver", "admin rung: rooms, memberships, and the user list"),
            Rung::Rooms => {
                let line = homeserver.promotion_command(Promotion::of(config));
                self.ok("homeserver", "rooms rung: rooms and memberships; accounts are looked up one by one");
                if config.accounts.backend == AccountsBackend::Synapse {
                    self.advice(
                        "homeserver",
                        &format!("usher is no server admin. `usher bootstrap --admin-token-file FILE` makes it one, or run:\n{line}"),
                    );
                }
                self.advice("homeserver", UNSEEN);
            }
            Rung::ReadOnly => self.failed(
                "homeserver",
                "the token is accepted but may not act as the bot: is appservice.bot the one the registration names?",
                Exit::Config,
            ),
        }
    }

    /// A server admin or protected user whom the puppet registration admits could be acted as (S-103).
    fn exposure(&mut self, homeserver: &Homeserver, listed: bool, exposed: &BTreeSet<UserId>) {
        if !homeserver.has_puppets() || !listed {
            return;
        }
        let open: Vec<&str> = exposed.iter().map(UserId::as_str).collect();
        if open.is_empty() {
            self.ok("puppet", "no server admin and no protected user can be acted as");
        } else {
            let text = format!(
                "admits server admins or protected users {}: run `usher registration generate` again, and restart the homeserver",
                open.join(", ")
            );
            self.advice("puppet", &text);
        }
    }

    /// Who is in charge of accounts, and whether usher was told (S-55).
    async fn delegation(&mut self, config: &Config, homeserver: &Homeserver) {
        match (homeserver.delegates_accounts().await, config.accounts.backend) {
            (Ok(true), AccountsBackend::Synapse) => self.failed("accounts", DELEGATED, Exit::Config),
            (Ok(false), AccountsBackend::Mas) => self.failed(
                "accounts",
                "accounts.backend is mas, but the homeserver keeps its accounts itself: write backend: synapse",
                Exit::Config,
            ),
            (Ok(true), AccountsBackend::Mas) if config.accounts.admin_token.is_none() => {
                self.advice("accounts", NO_SESSION);
            }
            (Ok(_), _) => {}
            (Err(error), _) => self.advice("accounts", &error.to_string()),
        }
    }

    /// What the plan would report: groups that are missing or ambiguous, spaces under forced encryption, people without accounts.
    async fn mapping(&mut self, config: &Config, homeserver: &Homeserver) {
        let decided = app::look(config, async |built| {
            built.reconciler.read_source(false).await?;
            built.reconciler.read_homeserver().await?;
            let decided = built.reconciler.decide(&Scope::Everything).await?;
            let observed = built.reconciler.observed().cloned();
            let exposed = built.reconciler.exposed();
            Ok((decided, observed, built.reconciler.setbacks(), exposed))
        });
        let (decided, observed, setbacks, exposed) = match decided.await {
            Ok(decided) => decided,
            Err(failure) => return self.failed("mapping", &failure.text, failure.exit),
        };
        if let Some(observed) = &observed {
            self.operators(&config.operators, (&observed.server, &observed.accounts));
        }
        self.exposure(homeserver, observed.as_ref().is_some_and(|observed| observed.accounts.listed), &exposed);
        self.ok("mapping", &decided.header.source);
        self.ok("mapping", &decided.header.target);
        for note in &decided.plan.notes {
            match note {
                Note::GroupAmbiguous { .. } => self.failed("mapping", &note.to_string(), Exit::Config),
                Note::GroupMissing { .. }
                | Note::GroupRenamed { .. }
                | Note::Unenforceable { .. }
                | Note::LocalpartConflict { .. }
                | Note::ExceptionUnknown { .. }
                | Note::AccountHeld { .. }
                | Note::AccountClosed { .. }
                | Note::EmailShared { .. }
                | Note::AttributesUnknown { .. }
                | Note::Source(_) => self.advice("mapping", &note.to_string()),
                Note::LocalpartChanged { .. }
                | Note::NoAccount { .. }
                | Note::HumanDecision { .. }
                | Note::Banned { .. }
                | Note::Suspended { .. }
                | Note::ForeignUser { .. }
                | Note::LevelsDoNotFit { .. }
                | Note::TakeOver { .. }
                | Note::TakenOut { .. }
                | Note::NobodyToHandTo { .. }
                | Note::InGrace { .. }
                | Note::AddressesUnread { .. }
                | Note::PhotosUnseen { .. }
                | Note::NotLocked { .. } => {}
            }
        }
        for setback in setbacks {
            let remedy = setback.remedy.unwrap_or_default();
            self.failed("rooms", &format!("{}\n{remedy}", setback.what), Exit::Error);
        }
        if let Some(text) = plan::clean_up_waits(&decided.plan) {
            self.advice("clean-up", &text);
        }
        let missing = decided.plan.notes.iter().filter(|note| matches!(note, Note::NoAccount { .. })).count();
        if missing > 0 {
            let text = format!(
                "{} no account yet: invited within a cycle of getting one",
                plan::counted(missing as u64, "entitled person has", "entitled people have")
            );
            self.advice("accounts", &text);
        }
        let bot = observed.as_ref().map(|observed| observed.accounts.presence(homeserver.bot()));
        if matches!(bot, Some(Presence::Missing)) {
            self.advice("accounts", "the bot does not exist yet; the first apply registers it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_without_an_account_is_pointed_out() {
        let mut accounts = Accounts { listed: true, ..Accounts::default() };
        accounts.people.insert("@ops:x".into(), crate::observed::Account::default());
        let said = |operators: &[&str], accounts: &Accounts| {
            let mut report = Report::default();
            let operators: Vec<UserId> = operators.iter().map(|operator| UserId::from(*operator)).collect();
            report.operators(&operators, ("x", accounts));
            report.out
        };
        assert_eq!(said(&[], &accounts), "");
        assert!(said(&["@ops:x", "@ops:elsewhere"], &accounts).starts_with("ok      operators      2 are told"));
        assert!(said(&["@opps:x"], &accounts).starts_with("advice  operators      @opps:x has no account"));
        accounts.listed = false;
        assert!(said(&["@opps:x"], &accounts).starts_with("ok"), "what is not known is no fault");
    }
}
