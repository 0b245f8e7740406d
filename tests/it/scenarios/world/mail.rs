//! The accounts' mail addresses in a scenario: read as the loop reads them, and written as the hand writes them.

use serde_json::{Value, json};
use usher::config::Config;
use usher::ids::UserId;
use usher::plan::{AccountDeed, Action, Attribute};

use super::{Stage, person};

impl Stage {
    /// The loop has read the addresses of everybody who was not read yet.
    pub(super) fn read_emails(&mut self, config: &Config) {
        if !config.user_provisioner.synapse_attributes.iter().any(|attribute| attribute == "emails") {
            return;
        }
        for user in self.observed.accounts.people.keys() {
            if self.ledger.attributes.get(user).and_then(|known| known.read_at).is_none() {
                let emails = self.mail.get(user).map(Vec::as_slice).unwrap_or_default();
                self.ledger.read_emails(user, emails, self.now);
            }
        }
    }

    /// The accounts' addresses as the hand leaves them.
    pub(super) fn write_emails(&mut self, action: &Action) {
        let Action::Account { user, deed: AccountDeed::Set(attribute) } = action else { return };
        let emails = self.mail.entry(user.clone()).or_default();
        match attribute {
            Attribute::Emails { emails: wanted, .. } => emails.clone_from(&wanted.0),
            Attribute::NoEmails(given) => emails.retain(|address| !given.has(address)),
            Attribute::DisplayName(_) | Attribute::Avatar(_) | Attribute::NoAvatar { .. } => {}
        }
    }

    /// `mail: {ann: [address, ...]}`: what the accounts have after the pass.
    pub(super) fn check_mail(&self, step: &Value, faults: &mut Vec<String>) {
        for (name, wanted) in step["mail"].as_object().into_iter().flatten() {
            let got = json!(self.mail.get(&UserId::from(person(name).as_str())).cloned().unwrap_or_default());
            if got != *wanted {
                faults.push(format!("{name} has {got}, not {wanted}"));
            }
        }
    }
}
