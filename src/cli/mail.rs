//! `usher mail preview`: the letters people get, filled in for somebody made up (S-64). Sends nothing, asks no server.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Exit, MailVerb};
use crate::app::{self, Failure};
use crate::mail::Occasion;
use crate::mail::templates::Rendered;

/// The verb as typed.
pub(super) fn verb(files: &[PathBuf], verb: &MailVerb) -> Result<Exit, Failure> {
    let config = super::configured(files)?;
    let MailVerb::Preview { occasion, html } = verb;
    let post = app::post(&config)?.ok_or_else(|| {
        let text = "no mail is configured: `source.mailer` of a SCIM source is what sends it (docs/mail.md)";
        Failure::new(Exit::Config, text)
    })?;
    let wanted = Occasion::ALL.into_iter().filter(|one| occasion.is_none_or(|only| only == *one));
    let mut text = String::new();
    for occasion in wanted {
        let letter = post.sample(occasion).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
        match html {
            Some(folder) => text.push_str(&write_page(folder, occasion, &letter)?),
            None => text.push_str(&shown(occasion, &letter)),
        }
    }
    Ok(super::printed(&text))
}

fn shown(occasion: Occasion, letter: &Rendered) -> String {
    let mut text = format!("--- {}\nSubject: {}\n\n", occasion.name(), letter.subject);
    let _ = writeln!(text, "{}", letter.text.trim_end());
    text.push('\n');
    text
}

fn write_page(folder: &Path, occasion: Occasion, letter: &Rendered) -> Result<String, Failure> {
    let path = folder.join(format!("{}.html", occasion.name()));
    std::fs::write(&path, &letter.html)
        .map_err(|error| Failure::new(Exit::Error, format!("cannot write {}: {error}", path.display())))?;
    Ok(format!("{}\n", path.display()))
}
