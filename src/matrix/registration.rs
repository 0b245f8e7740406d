//! The two registrations (DESIGN decision 9): the main one with the bot and our aliases, and the optional puppet one, whose user
//! namespace leaves protected users out, so that the homeserver itself refuses to let us act as them (S-54).
//!
//! Works with the homeserver down (S-103). Tokens are drawn here and nowhere else; files are readable by their owner only.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use fancy_regex::Regex;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::config::{Config, Space};
use crate::ids::{Key, Localpart, UserId};

/// Localpart of the main registration's sender, which speaks to the admin API.
pub const SENDER: &str = "_usher";
/// Localpart of the puppet registration's sender, which does nothing.
const PUPPET_SENDER: &str = "_usher_puppet";

/// What of a registration usher needs.
#[derive(Clone)]
pub struct Registration {
    pub id: String,
    /// Where the homeserver brings transactions; `None`: nowhere.
    pub url: Option<String>,
    pub sender_localpart: String,
    pub as_token: SecretString,
    pub hs_token: SecretString,
    /// Expressions over MXIDs of the users it may act as.
    pub users: Vec<String>,
    /// Expressions over aliases.
    pub aliases: Vec<String>,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("id", &self.id).field("users", &self.users).finish_non_exhaustive()
    }
}

/// A registration that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}: {cause}")]
pub struct RegistrationError {
    pub attempted: String,
    pub cause: String,
}

/// The two tokens of a registration.
#[derive(Clone)]
pub struct Tokens {
    pub as_token: SecretString,
    pub hs_token: SecretString,
}

impl Tokens {
    /// Fresh ones.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn draw() -> Result<Self, RegistrationError> {
        Ok(Self { as_token: token()?, hs_token: token()? })
    }
}

impl From<&Registration> for Tokens {
    fn from(registration: &Registration) -> Self {
        Self { as_token: registration.as_token.clone(), hs_token: registration.hs_token.clone() }
    }
}

/// Both registrations as YAML, to be written with [`write`].
pub struct Generated {
    pub main: SecretString,
    pub puppet: SecretString,
}

/// What the registrations depend on.
#[derive(Clone, Debug)]
pub struct Outline {
    pub instance: String,
    pub server_name: String,
    /// The bot's localpart.
    pub bot: Localpart,
    /// The URL to which the homeserver brings transactions, if it is to do so.
    pub url: Option<String>,
    /// Full aliases the configuration gives to spaces and rooms: an application service may use only those of its namespace.
    pub aliases: BTreeSet<String>,
    /// Expressions over MXIDs of protected and allowed users.
    pub protected: Vec<String>,
}

impl From<&Config> for Outline {
    fn from(config: &Config) -> Self {
        let patterns = config.provisioner.protected_users.iter().chain(&config.provisioner.allowed_users);
        Self {
            instance: config.instance.clone(),
            server_name: config.homeserver.server_name.clone(),
            bot: config.appservice.bot.clone(),
            url: config.appservice.transactions_url(),
            aliases: configured_aliases(config),
            protected: patterns.map(|pattern| pattern.text.clone()).collect(),
        }
    }
}

/// Writes both registrations. `main` and `puppet` are the tokens to use; `admins` are the live server admins, as far as they are
/// known, who are left out of the puppet's users beside the protected ones (S-103).
#[must_use]
pub fn generate(outline: &Outline, main: &Tokens, puppet: &Tokens, admins: &BTreeSet<UserId>) -> Generated {
    Generated { main: main_yaml(outline, main).into(), puppet: puppet_yaml(outline, puppet, admins).into() }
}

/// Where the registrations are.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    pub main: &'a Path,
    /// `None`: no puppet registration is wanted.
    pub puppet: Option<&'a Path>,
}

impl<'a> From<&'a Config> for Files<'a> {
    fn from(config: &'a Config) -> Self {
        let appservice = &config.appservice;
        Self { main: &appservice.registration, puppet: appservice.puppet_registration.as_deref() }
    }
}

/// Writes both registrations to their files; `policy` says what becomes of the tokens of files that exist.
///
/// # Errors
/// When a file cannot be read or written.
pub fn generate_files(
    outline: &Outline,
    files: Files<'_>,
    admins: &BTreeSet<UserId>,
    policy: TokenPolicy,
) -> Result<(), RegistrationError> {
    let tokens = |path: &Path| match policy {
        TokenPolicy::Keep if path.exists() => read(path).map(|registration| Tokens::from(&registration)),
        TokenPolicy::Keep | TokenPolicy::Rotate => Tokens::draw(),
    };
    let puppet = files.puppet.map_or_else(Tokens::draw, tokens)?;
    let generated = generate(outline, &tokens(files.main)?, &puppet, admins);
    write(files.main, &generated.main)?;
    files.puppet.map_or(Ok(()), |path| write(path, &generated.puppet))
}

/// What becomes of the tokens of registrations that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPolicy {
    Keep,
    Rotate,
}

fn main_yaml(outline: &Outline, tokens: &Tokens) -> String {
    let server = literal(&outline.server_name);
    let url = outline.url.as_deref().map_or_else(|| "null".to_owned(), quote);
    let users = [format!("^@{}:{server}$", literal(outline.bot.as_str()))];
    let mut aliases = vec![format!("^#{}.*:{server}$", literal(&alias_prefix(&outline.instance)))];
    aliases.extend(outline.aliases.iter().map(|alias| format!("^{}$", literal(alias))));
    let mut yaml = head(&format!("usher-{}", outline.instance), &url, tokens, SENDER);
    yaml.push_str("namespaces:\n");
    namespace(&mut yaml, "users", true, &users);
    namespace(&mut yaml, "aliases", true, &aliases);
    yaml.push_str("  rooms: []\n");
    yaml
}

fn puppet_yaml(outline: &Outline, tokens: &Tokens, admins: &BTreeSet<UserId>) -> String {
    let server = literal(&outline.server_name);
    let own = [outline.bot.as_str(), SENDER, PUPPET_SENDER];
    let mut excluded: Vec<String> = own.iter().map(|name| format!("@{}:{server}", literal(name))).collect();
    excluded.extend(outline.protected.iter().cloned());
    excluded.extend(admins.iter().map(|admin| literal(admin.as_str())));
    let users = [format!("^(?!(?:{})$)@[^:]*:{server}$", excluded.join("|"))];
    let mut yaml = head(&format!("usher-{}-puppet", outline.instance), "null", tokens, PUPPET_SENDER);
    yaml.push_str("namespaces:\n");
    namespace(&mut yaml, "users", false, &users);
    yaml.push_str("  aliases: []\n  rooms: []\n");
    yaml
}

/// What every fencing alias of this instance begins with.
fn alias_prefix(instance: &str) -> String {
    let any = Key::Space("x".into()).alias_localpart(instance);
    any.strip_suffix("s_x").unwrap_or(&any).to_owned()
}

fn head(id: &str, url: &str, tokens: &Tokens, sender: &str) -> String {
    format!(
        "# Written by usher. Give it to the homeserver (`app_service_config_files`), keep it secret.\n\
         id: {}\nurl: {url}\nas_token: {}\nhs_token: {}\nsender_localpart: {}\nrate_limited: false\n",
        quote(id),
        quote(tokens.as_token.expose_secret()),
        quote(tokens.hs_token.expose_secret()),
        quote(sender),
    )
}

fn namespace(yaml: &mut String, name: &str, exclusive: bool, expressions: &[String]) {
    let _ = writeln!(yaml, "  {name}:");
    for expression in expressions {
        let _ = writeln!(yaml, "    - exclusive: {exclusive}\n      regex: {}", quote(expression));
    }
}

/// A YAML single-quoted text: nothing in it is special but the quote.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An expression that matches `text` only, in the dialects of both Python and Rust.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// Aliases the configuration gives to spaces and their rooms.
fn configured_aliases(config: &Config) -> BTreeSet<String> {
    fn gather(spaces: &[Space], server: &str, aliases: &mut BTreeSet<String>) {
        for space in spaces {
            let named = space.alias.iter().chain(space.rooms.iter().filter_map(|room| room.alias.as_ref()));
            aliases.extend(named.map(|alias| full_alias(alias, server)));
            gather(&space.subspaces, server, aliases);
        }
    }
    let server = &config.homeserver.server_name;
    let rooms = config.provisioner.default_rooms.iter().filter_map(|room| room.alias.as_ref());
    let mut aliases = rooms.map(|alias| full_alias(alias, server)).collect();
    gather(config.spaces.as_deref().unwrap_or_default(), server, &mut aliases);
    aliases
}

/// `#name:server`, from that or from its localpart.
fn full_alias(alias: &str, server: &str) -> String {
    let bare = alias.strip_prefix('#').unwrap_or(alias);
    if bare.contains(':') { format!("#{bare}") } else { format!("#{bare}:{server}") }
}

#[derive(Deserialize)]
struct File {
    id: String,
    #[serde(default)]
    url: Option<String>,
    as_token: String,
    hs_token: String,
    sender_localpart: String,
    #[serde(default)]
    namespaces: Namespaces,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Namespaces {
    users: Option<Vec<Namespace>>,
    aliases: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    regex: String,
}

/// Reads a registration file.
///
/// # Errors
/// When it cannot be read, or is no registration.
pub fn read(path: &Path) -> Result<Registration, RegistrationError> {
    let attempted = || format!("read the registration {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| RegistrationError {
        attempted: attempted(),
        cause: match error.kind() {
            std::io::ErrorKind::NotFound => format!("{error}; `usher registration generate` writes it"),
            _ => error.to_string(),
        },
    })?;
    // The parser's text could quote a token.
    let file: File = serde_yaml::from_str(&text).map_err(|error| RegistrationError {
        attempted: attempted(),
        cause: match error.location() {
            Some(at) => format!("not a registration (line {}, column {})", at.line(), at.column()),
            None => "not a registration: id, as_token, hs_token and sender_localpart are needed".to_owned(),
        },
    })?;
    let expressions = |list: Option<Vec<Namespace>>| list.unwrap_or_default().into_iter().map(|n| n.regex).collect();
    Ok(Registration {
        id: file.id,
        url: file.url,
        sender_localpart: file.sender_localpart,
        as_token: file.as_token.into(),
        hs_token: file.hs_token.into(),
        users: expressions(file.namespaces.users),
        aliases: expressions(file.namespaces.aliases),
    })
}

impl Registration {
    /// Whether the homeserver lets this registration act as `user`. An expression that we cannot read counts as admitting: the answer
    /// serves to warn.
    #[must_use]
    pub fn admits(&self, user: &UserId) -> bool {
        // The homeserver matches from the start of the id.
        self.users.iter().any(|expression| {
            Regex::new(&format!("^(?:{expression})"))
                .ok()
                .and_then(|regex| regex.is_match(user.as_str()).ok())
                .unwrap_or(true)
        })
    }
}

/// Writes a registration, readable by its owner only, in one piece: a reader sees the old or the new file.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, yaml: &SecretString) -> Result<(), RegistrationError> {
    let failed = |error: std::io::Error| RegistrationError {
        attempted: format!("write the registration {}", path.display()),
        cause: error.to_string(),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(failed)?;
    file.write_all(yaml.expose_secret().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)
}

/// 256 random bits as text.
#[expect(clippy::disallowed_methods, reason = "this is the one place where randomness is drawn")]
fn token() -> Result<SecretString, RegistrationError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| RegistrationError { attempted: "draw a token".to_owned(), cause: error.to_string() })?;
    Ok(hex::encode(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline() -> Outline {
        Outline {
            instance: "main".to_owned(),
            server_name: "example.com".to_owned(),
            bot: "usher".into(),
            url: None,
            aliases: BTreeSet::from(["#staff:example.com".to_owned()]),
            protected: vec![r"@boss.*:example\.com".to_owned()],
        }
    }

    fn written(yaml: &SecretString) -> (tempfile::TempDir, Registration) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registration.yaml");
        write(&path, yaml).unwrap();
        let registration = read(&path).unwrap();
        (folder, registration)
    }

    fn generated() -> Generated {
        let admins = BTreeSet::from(["@root:example.com".into()]);
        generate(&outline(), &Tokens::draw().unwrap(), &Tokens::draw().unwrap(), &admins)
    }

    #[test]
    fn the_main_registration_owns_the_bot_and_our_aliases_and_nobody_else() {
        let (_folder, main) = written(&generated().main);
        assert!(main.admits(&"@usher:example.com".into()));
        for other in ["@usher2:example.com", "@usher:example.com.evil", "@ann:example.com", "@xusher:example.com"] {
            assert!(!main.admits(&other.into()), "{other}");
        }
        assert_eq!(main.aliases, [r"^#usher_main_.*:example\.com$", r"^#staff:example\.com$"]);
        assert_eq!(main.sender_localpart, SENDER);
    }

    #[test]
    fn transactions_are_brought_where_the_outline_says_and_never_for_puppets() {
        let at = |url: Option<&str>| {
            let outline = Outline { url: url.map(str::to_owned), ..outline() };
            let tokens = || Tokens::draw().unwrap();
            let both = generate(&outline, &tokens(), &tokens(), &BTreeSet::new());
            (written(&both.main).1.url, written(&both.puppet).1.url)
        };
        assert_eq!(at(None), (None, None));
        assert_eq!(at(Some("http://usher:9009")), (Some("http://usher:9009".to_owned()), None));
    }

    #[test]
    fn the_puppet_registration_leaves_protected_users_and_admins_out() {
        let (_folder, puppet) = written(&generated().puppet);
        for admitted in ["@ann:example.com", "@rooty:example.com", "@ushers:example.com", "@a/b:example.com"] {
            assert!(puppet.admits(&admitted.into()), "{admitted}");
        }
        for refused in [
            "@usher:example.com",
            "@_usher:example.com",
            "@_usher_puppet:example.com",
            "@boss:example.com",
            "@boss2:example.com",
            "@root:example.com",
            "@ann:examplexcom",
            "@ann:example.com:8448",
            "@ann:other.org",
        ] {
            assert!(!puppet.admits(&refused.into()), "{refused}");
        }
    }

    #[test]
    fn a_registration_is_readable_by_its_owner_only_and_replaced_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, first) = written(&generated().main);
        let path = folder.path().join("registration.yaml");
        write(&path, &generated().main).unwrap();
        let second = read(&path).unwrap();
        assert_ne!(first.as_token.expose_secret(), second.as_token.expose_secret());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writing_again_keeps_the_tokens_unless_told_to_rotate_them() {
        let folder = tempfile::tempdir().unwrap();
        let (main, puppet) = (folder.path().join("main.yaml"), folder.path().join("puppet.yaml"));
        let files = Files { main: &main, puppet: Some(&puppet) };
        let admin = UserId::from("@chief:example.com");
        let tokens = || [&main, &puppet].map(|path| read(path).unwrap().as_token.expose_secret().to_owned());
        generate_files(&outline(), files, &BTreeSet::new(), TokenPolicy::Keep).unwrap();
        let first = tokens();
        assert_ne!(first[0], first[1]);
        assert!(read(&puppet).unwrap().admits(&admin));
        generate_files(&outline(), files, &[admin.clone()].into(), TokenPolicy::Keep).unwrap();
        assert_eq!(tokens(), first);
        assert!(!read(&puppet).unwrap().admits(&admin));
        generate_files(&outline(), files, &BTreeSet::new(), TokenPolicy::Rotate).unwrap();
        assert!(tokens().iter().all(|token| !first.contains(token)));
    }

    #[test]
    fn no_token_is_shown_by_an_error_or_by_debug() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.yaml");
        std::fs::write(&path, "id: a\nas_token: [sesame\n").unwrap();
        assert!(!read(&path).unwrap_err().to_string().contains("sesame"));
        let (_folder, main) = written(&generated().main);
        assert!(!format!("{main:?}").contains(main.as_token.expose_secret()));
        assert!(read(&folder.path().join("absent.yaml")).unwrap_err().to_string().contains("registration generate"));
    }
}
