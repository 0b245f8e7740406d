//! `usher completions <shell>`: the script that completes usher's command line.

use clap_complete::{Shell, generate};

/// The script for a shell, to be sourced or put where the shell looks.
#[must_use]
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut super::command(), "usher", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(shell);
            for word in ["explain", "approve", "registration"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
