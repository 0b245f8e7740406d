//! The command line (S-90, S-110): what can be asked for, parsed into plain data, and what the exit codes mean. One file a verb below.

mod apply;
mod audit;
mod bootstrap;
mod check;
pub mod completions;
mod explain;
pub mod grace;
pub mod hold;
pub mod mail;
mod plan;
pub mod progress;
mod rebind;
mod registration;
mod run;
pub mod source;
pub mod status;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, value_parser,
};
use clap_complete::Shell;

use crate::app::Failure;
use crate::config::{self, Config, Problem, Severity};
use crate::mail::Occasion;

/// How usher ends (S-90, S-110).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Something went wrong that has no code of its own.
    Error = 1,
    /// `plan`: changes are pending.
    Pending = 2,
    /// Something waits for an approval (S-81, S-43).
    Held = 3,
    /// Applied, but some steps failed.
    Failures = 4,
    /// Another instance writes (S-85).
    Locked = 5,
    /// The command line was not understood. Never 2, so that a typing error does not read as "changes pending".
    Usage = 64,
    /// The source or the homeserver cannot be reached; worth another try.
    Unreachable = 75,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Configuration files in the order they are merged (S-95).
    pub config: Vec<PathBuf>,
    pub verb: Verb,
}

/// The verbs.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// Check the configuration, the source, the homeserver and the database, and say what is wrong
    Check,
    /// Show what would change, and why; changes nothing (exit code 2: changes pending, 3: held)
    Plan {
        /// Print the plan as JSON
        #[arg(long)]
        json: bool,
        /// Write the world the plan was made from into FILE, for a bug report or a test
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
    },
    /// Make the plan and carry it out once
    Apply {
        /// Do not ask first
        #[arg(long, short)]
        yes: bool,
    },
    /// Keep the homeserver in line until stopped
    Run {
        /// Read, plan and show, but write nothing
        #[arg(long)]
        dry_run: bool,
        /// End after the first pass
        #[arg(long)]
        once: bool,
    },
    /// Say what usher thinks of a user, group, space or room, and why
    Explain {
        /// A user (@ann:example.com, ann), a group, a space or a room
        what: String,
    },
    /// What is held back until somebody approves it
    #[command(subcommand)]
    Hold(HoldVerb),
    /// Who is locked and until when, and what is to become of them
    #[command(subcommand)]
    Grace(GraceVerb),
    /// Give an account to another entry of the directory
    Rebind {
        /// The entry's stable id, as `usher explain` and the plan's notes show it
        id: String,
        /// The account's localpart
        localpart: String,
    },
    /// What usher wrote
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Try the source out
    #[command(subcommand)]
    Source(SourceVerb),
    /// The application service registrations
    #[command(subcommand)]
    Registration(RegistrationVerb),
    /// Make usher's sender a server admin, once
    Bootstrap {
        /// A file with a server admin's access token
        #[arg(long, value_name = "FILE")]
        admin_token_file: PathBuf,
    },
    /// Ask the running usher how it is
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The letters people get
    #[command(subcommand)]
    Mail(MailVerb),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print a completion script
    Completions {
        /// The shell it is for
        shell: Shell,
    },
}

/// `usher hold …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum HoldVerb {
    /// List what is held
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show every step of one hold
    Show {
        /// The hold's id
        id: String,
    },
    /// Let held steps happen, once, within 24 hours
    #[command(override_usage = "usher hold approve <ID>...\n       usher hold approve --all")]
    Approve {
        /// Ids of holds
        #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ID")]
        ids: Vec<String>,
        /// Everything that is held now
        #[arg(long)]
        all: bool,
    },
}

/// `usher grace …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum GraceVerb {
    /// List who is locked by usher, since when, why, and when their account ends
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Unlock somebody and leave them so, although the directory does not have them
    Restore {
        /// @ann:example.com, or ann
        user: String,
    },
    /// Take a restore back: lock them again, with a new grace period
    Lock {
        /// @ann:example.com, or ann
        user: String,
    },
    /// Put the end of somebody's account off
    Extend {
        /// @ann:example.com, or ann
        user: String,
        /// Counted from now, such as 30d
        period: String,
    },
    /// End somebody's account in the next pass
    EraseNow {
        /// @ann:example.com, or ann
        user: String,
    },
}

/// `usher audit …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum AuditVerb {
    /// Show the latest writes
    Tail {
        /// How many
        #[arg(default_value_t = 20)]
        count: u32,
    },
    /// Print every write as a line of JSON, oldest first
    Export,
}

/// `usher source …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum SourceVerb {
    /// Connect, bind and read, and name the step that fails
    Test,
    /// Show some users and groups as usher reads them
    Sample {
        /// How many of each
        #[arg(default_value_t = 10)]
        count: usize,
    },
}

/// `usher registration …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum RegistrationVerb {
    /// Write the registration files for the homeserver
    Generate {
        /// Replace existing files, with new tokens
        #[arg(long)]
        force: bool,
    },
}

/// `usher mail …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum MailVerb {
    /// Show the letters as somebody made up would get them; sends nothing
    Preview {
        /// registered, activated or deactivated; all of them unless given
        #[arg(value_parser = occasion)]
        occasion: Option<Occasion>,
        /// Write the HTML of each into FOLDER instead, to be looked at in a browser
        #[arg(long, value_name = "FOLDER")]
        html: Option<PathBuf>,
    },
}

fn occasion(name: &str) -> Result<Occasion, String> {
    Occasion::named(name).ok_or_else(|| "must be registered, activated or deactivated".to_owned())
}

/// `usher config …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ConfigVerb {
    /// Print the merged configuration, secrets left out
    Dump,
}

#[derive(Parser)]
#[command(name = "usher", version, about = "Keeps a Matrix homeserver in line with a directory", long_about = None)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// A command line that was answered by a text: help, version or a usage error.
#[derive(Debug)]
pub struct Answered {
    error: clap::Error,
    pub exit: Exit,
}

impl Answered {
    /// Prints it: help and version to standard output, errors to standard error.
    pub fn print(&self) {
        // Nobody is there to be told when the terminal is gone.
        let _ = self.error.print();
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.render().fmt(f)
    }
}

const CONFIG_VARIABLE: &str = "USHER_CONFIG";
const CONFIG_DEFAULT: &str = "usher.yaml";

/// Reads the process's own command line and `USHER_CONFIG`.
///
/// # Errors
/// The text to print instead, with its exit code.
pub fn parse() -> Result<Invocation, Answered> {
    parse_from(std::env::args_os(), std::env::var_os(CONFIG_VARIABLE).as_deref())
}

/// Parses a command line, its program name first. `variable` is the value of `USHER_CONFIG`: one file, or several as in `PATH`.
///
/// # Errors
/// The text to print instead, with its exit code.
pub fn parse_from(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    variable: Option<&OsStr>,
) -> Result<Invocation, Answered> {
    let matches = command().try_get_matches_from(args).map_err(answered)?;
    let mut config = config_files(&matches);
    if config.is_empty() {
        config =
            variable.into_iter().flat_map(std::env::split_paths).filter(|path| !path.as_os_str().is_empty()).collect();
    }
    if config.is_empty() {
        config.push(PathBuf::from(CONFIG_DEFAULT));
    }
    let verb = Cli::from_arg_matches(&matches).map_err(answered)?.verb;
    Ok(Invocation { config, verb })
}

/// The whole command, `-c` accepted at every level (S-110).
fn command() -> Command {
    with_config(Cli::command())
}

/// clap's own global arguments would let a `-c` after the verb replace one before it; every level having its own keeps both.
fn with_config(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let config = Arg::new("config")
        .short('c')
        .long("config")
        .value_name("FILE")
        .action(ArgAction::Append)
        .value_parser(value_parser!(PathBuf))
        .help("Configuration file; several are merged in order [env: USHER_CONFIG] [default: usher.yaml]");
    names.into_iter().fold(command.arg(config), |command, name| command.mut_subcommand(name, with_config))
}

fn config_files(matches: &ArgMatches) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = matches.get_many("config").into_iter().flatten().cloned().collect();
    if let Some((_, below)) = matches.subcommand() {
        files.extend(config_files(below));
    }
    files
}

fn answered(error: clap::Error) -> Answered {
    let exit = if error.exit_code() == 0 { Exit::Done } else { Exit::Usage };
    Answered { error, exit }
}

/// Carries a command line out.
pub async fn run(invocation: Invocation) -> Exit {
    let files = &invocation.config;
    let done = match &invocation.verb {
        Verb::Completions { shell } => return printed(&completions::script(*shell)),
        Verb::Config(ConfigVerb::Dump) => dump(files),
        Verb::Check => check::run(files).await,
        Verb::Plan { json, record } => plan::run(files, *json, record.as_deref()).await,
        Verb::Apply { yes } => apply::run(files, *yes).await,
        Verb::Run { dry_run, once } => Box::pin(run::run(files, *dry_run, *once)).await,
        Verb::Explain { what } => explain::run(files, what).await,
        Verb::Hold(verb) => hold::verb(files, verb).await,
        Verb::Grace(verb) => grace::verb(files, verb).await,
        Verb::Rebind { id, localpart } => rebind::run(files, id, localpart).await,
        Verb::Audit(verb) => audit::verb(files, verb).await,
        Verb::Source(verb) => source::run(files, verb).await,
        Verb::Registration(RegistrationVerb::Generate { force }) => registration::generate(files, *force).await,
        Verb::Bootstrap { admin_token_file } => bootstrap::run(files, admin_token_file).await,
        Verb::Mail(verb) => mail::verb(files, verb),
        Verb::Status { json } => status::verb(files, *json).await,
    };
    done.unwrap_or_else(|failure| {
        // Nobody is there to be told when the terminal is gone; the code is told all the same.
        let _ = writeln!(io::stderr(), "usher: {}", failure.text);
        failure.exit
    })
}

/// The configuration as it is understood. One that nothing could work with is shown, too, and ends with its own code.
fn dump(files: &[PathBuf]) -> Result<Exit, Failure> {
    let loaded = config::load(files);
    if let [Problem { position: None, message, .. }] = loaded.problems.as_slice() {
        return Err(Failure::new(Exit::Config, message.clone()));
    }
    match printed(&config::dump(files)) {
        Exit::Done if loaded.config.is_none() => Ok(Exit::Config),
        shown => Ok(shown),
    }
}

/// The configuration for a verb that works: unknown keys are warnings (S-12). Starts the log it asks for.
///
/// # Errors
/// Every problem at once.
fn configured(files: &[PathBuf]) -> Result<Config, Failure> {
    match config::load(files).lenient() {
        Ok((config, problems)) => {
            crate::observability::start_logging(&config.logging);
            for problem in problems.iter().filter(|problem| problem.severity == Severity::Unknown) {
                tracing::warn!("{problem}");
            }
            Ok(config)
        }
        Err(problems) => Err(Failure::new(Exit::Config, problem_list(&problems))),
    }
}

/// Problems as `usher check` prints them, a line each, with their number.
fn problem_list(problems: &[Problem]) -> String {
    if let [Problem { position: None, message, .. }] = problems {
        return message.clone();
    }
    let lines: Vec<String> = problems.iter().map(|problem| format!("{}: {problem}", problem.severity)).collect();
    let count = match lines.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    format!("the configuration has {count}:\n{}", lines.join("\n"))
}

/// Writes to standard output. A reader that went away (`usher plan | head`) is no error.
#[must_use]
pub fn printed(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            let _ = writeln!(io::stderr(), "usher: cannot write to standard output: {error}");
            Exit::Error
        }
    }
}

/// Who sits at the command line, for the record of approvals.
#[must_use]
pub fn operator() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    named.unwrap_or_else(|| "command line".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, Answered> {
        parse_from(line.split_whitespace(), None)
    }

    fn files(line: &str, variable: Option<&str>) -> Vec<PathBuf> {
        parse_from(line.split_whitespace(), variable.map(OsStr::new)).unwrap().config
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn configuration_files_are_taken_before_and_after_the_verb_in_order() {
        let expected: Vec<PathBuf> = ["a", "b", "c"].map(PathBuf::from).to_vec();
        assert_eq!(files("usher -c a hold -c b list --config c", None), expected);
        assert_eq!(files("usher -c a -c b plan -c c", Some("z")), expected);
        assert_eq!(files("usher plan", Some("a:b:c")), expected);
        assert_eq!(files("usher plan", Some("")), [PathBuf::from("usher.yaml")]);
        assert_eq!(files("usher plan", None), [PathBuf::from("usher.yaml")]);
    }

    #[test]
    fn a_usage_error_is_64_and_help_is_0() {
        for wrong in [
            "usher",
            "usher paln",
            "usher plan --jsn",
            "usher hold",
            "usher hold approve",
            "usher hold approve h-1 --all",
            "usher plan -c",
            "usher completions basic",
            "usher source sample many",
            "usher bootstrap",
        ] {
            assert_eq!(parsed(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
        for right in ["usher --help", "usher --version", "usher help plan", "usher hold approve --help"] {
            assert_eq!(parsed(right).unwrap_err().exit, Exit::Done, "{right}");
        }
        assert!(parsed("usher paln").unwrap_err().to_string().contains("plan"));
    }

    #[test]
    fn verbs_become_plain_data() {
        let verb = |line: &str| parsed(line).unwrap().verb;
        assert_eq!(verb("usher check"), Verb::Check);
        let record = Some(PathBuf::from("w.yaml"));
        assert_eq!(verb("usher plan --json --record w.yaml"), Verb::Plan { json: true, record });
        assert_eq!(verb("usher apply --yes"), Verb::Apply { yes: true });
        assert_eq!(verb("usher run --dry-run --once"), Verb::Run { dry_run: true, once: true });
        assert_eq!(verb("usher explain @ann:a"), Verb::Explain { what: "@ann:a".into() });
        let ids = vec!["h-1".to_owned(), "h-2".to_owned()];
        assert_eq!(verb("usher hold approve h-1 h-2"), Verb::Hold(HoldVerb::Approve { ids, all: false }));
        assert_eq!(verb("usher hold approve --all"), Verb::Hold(HoldVerb::Approve { ids: vec![], all: true }));
        assert_eq!(verb("usher source sample"), Verb::Source(SourceVerb::Sample { count: 10 }));
        assert_eq!(verb("usher source sample 3"), Verb::Source(SourceVerb::Sample { count: 3 }));
        let generate = Verb::Registration(RegistrationVerb::Generate { force: false });
        assert_eq!(verb("usher registration generate"), generate);
        let admin_token_file = PathBuf::from("t");
        assert_eq!(verb("usher bootstrap --admin-token-file t"), Verb::Bootstrap { admin_token_file });
        assert_eq!(verb("usher status --json"), Verb::Status { json: true });
        assert_eq!(verb("usher config dump"), Verb::Config(ConfigVerb::Dump));
    }
}
