//! Secrets: inline, in a file named by `<key>_file`, or `${NAME}` (S-95). A problem names the key, the file or the variable,
//! never the content.

use std::io::Read as _;
use std::path::Path;

use secrecy::SecretString;

use super::section::Section;
use super::value::Field;
use super::variables::one_newline_less;

/// Largest secret file, in bytes: a certificate chain with its key has a few thousand.
const LARGEST_SECRET: u64 = 1024 * 1024;

/// The secret `key`, or the content of the file `key_file` names.
pub(super) fn read(section: &mut Section<'_>, key: &'static str, key_file: &'static str) -> Option<SecretString> {
    let inline = section.field(key);
    let file = section.field(key_file);
    match (inline, file) {
        (Some(_), Some(file)) => {
            file.fail(format!("`{key}` is given too: keep one of the two"));
            None
        }
        (Some(inline), None) => text(&inline),
        (None, Some(file)) => contents(&file),
        (None, None) => None,
    }
}

/// The same, for a secret that must be there.
pub(super) fn need(section: &mut Section<'_>, key: &'static str, key_file: &'static str) -> Option<SecretString> {
    let before = section.report.errors();
    let secret = read(section, key, key_file);
    if secret.is_none() && section.report.errors() == before {
        let message =
            format!("is missing. Write `{key}_file: /path/to/the/secret`, or `{key}: ${{NAME}}` for a variable");
        section.report.error(Some(&section.spot), &super::section::join(&section.path, key), message);
    }
    secret
}

fn text(field: &Field<'_>) -> Option<SecretString> {
    let scalar = field.scalar("a text")?;
    if scalar.text.is_empty() {
        field.fail("must not be empty");
        return None;
    }
    Some(SecretString::from(scalar.text.clone()))
}

/// What the file holds that `field` names.
pub(super) fn contents(field: &Field<'_>) -> Option<SecretString> {
    let path = field.path()?;
    match read_bounded(&path) {
        Ok(text) if text.trim().is_empty() => {
            field.fail(format!("the file {} is empty", path.display()));
            None
        }
        Ok(text) => Some(SecretString::from(one_newline_less(text))),
        Err(error) => {
            field.fail(format!("cannot read {}: {error}", path.display()));
            None
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() && path.is_dir() {
        return Err(std::io::Error::other("it is a directory"));
    }
    let mut text = String::new();
    file.take(LARGEST_SECRET).read_to_string(&mut text)?;
    Ok(text)
}
