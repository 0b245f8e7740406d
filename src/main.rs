//! Parses the command line, starts the runtime, hands over to [`usher::cli::run`], and turns what came of it into an exit code.

use std::process::ExitCode;

use usher::cli::{self, Exit};

fn main() -> ExitCode {
    let invocation = match cli::parse() {
        Ok(invocation) => invocation,
        Err(answered) => {
            answered.print();
            return answered.exit.into();
        }
    };
    install_tls();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("usher: cannot start its threads: {error}");
            return Exit::Error.into();
        }
    };
    runtime.block_on(cli::run(invocation)).into()
}

/// One TLS provider for LDAP, HTTP and `PostgreSQL`.
fn install_tls() {
    // The only failure is that one is installed already, which this being the first thing `main` does rules out.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
