//! `templates/<occasion>/{subject,text,html}` in `MiniJinja`, the operator's files before the built-in ones, one by one.
//!
//! Never sends. What is put into `html` is escaped; a name that no template may use is an error, not an empty place.

use std::path::{Path, PathBuf};

use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};

use super::{Occasion, Values};

/// A letter's three parts.
const PARTS: [&str; 3] = ["subject", "text", "html"];

/// The largest template, in bytes; one with a picture in it has some ten thousand.
const LARGEST: u64 = 1024 * 1024;

/// How much work a template may make: a loop without end is stopped.
const FUEL: u64 = 100_000;

/// What a letter says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// Why a template cannot be used: which, where, and what about it.
#[derive(Debug, thiserror::Error)]
#[error("mail template {place}: {cause}")]
pub struct TemplateError {
    pub place: String,
    pub cause: String,
}

/// All templates, parsed.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    /// The built-in templates, with those in `folder` in their place.
    ///
    /// # Errors
    /// The first file that cannot be read or parsed.
    pub fn load(folder: Option<&Path>) -> Result<Self, TemplateError> {
        if let Some(folder) = folder
            && !folder.is_dir()
        {
            let cause = "is no folder; leave `mailer.templates_path` out for the built-in templates".to_owned();
            return Err(TemplateError { place: folder.display().to_string(), cause });
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|name| match name {
            name if name.ends_with("/html") => AutoEscape::Html,
            _ => AutoEscape::None,
        });
        for occasion in Occasion::ALL {
            for (part, built_in) in PARTS.into_iter().zip(built_in(occasion)) {
                let name = format!("{}/{part}", occasion.name());
                let own = folder.map(|folder| own(folder, &name)).transpose()?.flatten();
                let (place, source) = own.unwrap_or_else(|| (name.clone(), built_in.to_owned()));
                environment
                    .add_template_owned(name, source)
                    .map_err(|error| TemplateError { place, cause: told(&error) })?;
            }
        }
        Ok(Self { environment })
    }

    /// A letter's text.
    ///
    /// # Errors
    /// Where a template uses a name that is not there, or goes on without end.
    pub fn render(&self, occasion: Occasion, values: &Values<'_>) -> Result<Rendered, TemplateError> {
        let Values { display_name, user_id, organisation, client_url } = *values;
        let values = context! { display_name, user_id, organisation, client_url };
        let [subject, text, html] = PARTS.map(|part| {
            let place = format!("{}/{part}", occasion.name());
            let template = self.environment.get_template(&place);
            let rendered = template.and_then(|template| template.render(&values));
            rendered.map_err(|error| TemplateError { place, cause: told(&error) })
        });
        // A header is one line: a break in a name would begin another header.
        let subject = subject?.split_whitespace().collect::<Vec<_>>().join(" ");
        if subject.is_empty() {
            let place = format!("{}/subject", occasion.name());
            return Err(TemplateError { place, cause: "the subject is empty".to_owned() });
        }
        Ok(Rendered { subject, text: text?, html: html? })
    }
}

/// The operator's file for a template, if there is one: where it is, and what it holds.
fn own(folder: &Path, name: &str) -> Result<Option<(String, String)>, TemplateError> {
    let path = folder.join(name);
    let error = |path: &Path, cause: String| TemplateError { place: path.display().to_string(), cause };
    let size = match std::fs::metadata(&path) {
        Ok(meta) => meta.len(),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
            let pug = PathBuf::from(format!("{}.pug", path.display()));
            if pug.exists() {
                let cause = "is a Pug template, which usher does not read: write it in Jinja's language into a file beside it without \
                             `.pug` (docs/mail.md)";
                return Err(error(&pug, cause.to_owned()));
            }
            return Ok(None);
        }
        Err(cause) => return Err(error(&path, cause.to_string())),
    };
    if size > LARGEST {
        return Err(error(&path, format!("is larger than {} KiB", LARGEST / 1024)));
    }
    let text = std::fs::read_to_string(&path).map_err(|cause| error(&path, cause.to_string()))?;
    Ok(Some((path.display().to_string(), text)))
}

/// Line and cause of what `MiniJinja` says.
fn told(error: &minijinja::Error) -> String {
    let detail =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    error.line().map_or_else(|| detail.clone(), |line| format!("line {line}: {detail}"))
}

const fn built_in(occasion: Occasion) -> [&'static str; 3] {
    match occasion {
        Occasion::Registered => [
            include_str!("../../templates/registered/subject"),
            include_str!("../../templates/registered/text"),
            include_str!("../../templates/registered/html"),
        ],
        Occasion::Activated => [
            include_str!("../../templates/activated/subject"),
            include_str!("../../templates/activated/text"),
            include_str!("../../templates/activated/html"),
        ],
        Occasion::Deactivated => [
            include_str!("../../templates/deactivated/subject"),
            include_str!("../../templates/deactivated/text"),
            include_str!("../../templates/deactivated/html"),
        ],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on must end")]

    use super::*;

    const VALUES: Values<'static> = Values {
        display_name: "Ann <b>\r\nBcc: all",
        user_id: "@ann:example.org",
        organisation: "Example",
        client_url: None,
    };

    fn in_folder(files: &[(&str, &str)]) -> Result<Rendered, TemplateError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Templates::load(Some(folder.path()))?.render(Occasion::Registered, &VALUES)
    }

    #[test]
    fn one_file_of_the_operator_replaces_one_of_ours() {
        let rendered = in_folder(&[("registered/subject", "Hi {{ display_name }}")]).unwrap();
        assert_eq!(rendered.subject, "Hi Ann <b> Bcc: all");
        assert!(rendered.text.contains("you can now use Example's chat"), "{}", rendered.text);
        assert!(rendered.html.contains("Ann &lt;b&gt;") && !rendered.html.contains("<b>"), "{}", rendered.html);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        let error = in_folder(&[("registered/text", "Hello\n{{ nmae }}")]).unwrap_err().to_string();
        assert_eq!(error, "mail template registered/text: line 2: undefined value: `nmae` is undefined");
        let error = in_folder(&[("registered/text", "{% if %}")]).unwrap_err().to_string();
        assert!(error.contains("registered/text: line 1: syntax error"), "{error}");
        let error = in_folder(&[("registered/text.pug", "p hello")]).unwrap_err().to_string();
        assert!(error.contains("text.pug: is a Pug template"), "{error}");
        let error = in_folder(&[("registered/subject", "  \n")]).unwrap_err().to_string();
        assert!(error.ends_with("the subject is empty"), "{error}");
        let endless = "{% for x in range(10000) %}{% for y in range(10000) %}.{% endfor %}{% endfor %}";
        assert!(in_folder(&[("registered/text", endless)]).unwrap_err().to_string().contains("out of fuel"));
    }
}
