//! The settings of a modelled session.

use std::collections::{BTreeMap, BTreeSet};

/// The settings that the model knows, as `SHOW` spells them, with their defaults; and whether they are reported.
const KNOWN: &[(&str, &str, bool)] = &[
    ("application_name", "", true),
    ("DateStyle", "ISO, MDY", true),
    ("role", "none", false),
    ("search_path", "\"$user\", public", false),
    ("work_mem", "4MB", false),
];

pub(super) fn is_known(name: &str) -> bool {
    known(name).is_some()
}

fn known(name: &str) -> Option<&'static (&'static str, &'static str, bool)> {
    KNOWN.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name))
}

/// As SHOW tells it.
pub(super) fn canonical(value: String) -> String {
    if value == "German" { "German, DMY".to_owned() } else { value }
}

/// What the server has of settings; a rollback restores `session` and `local`.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// As the startup packet gave them.
    startup: BTreeMap<String, String>,
    /// Custom settings that were ever set.
    placeholders: BTreeSet<String>,
    /// What `pg_settings` says comes from the session.
    pub(super) session: BTreeMap<String, String>,
    /// Until the end of the transaction.
    pub(super) local: BTreeMap<String, String>,
    /// What was last reported.
    told: BTreeMap<&'static str, String>,
}

impl Settings {
    pub(super) fn new(startup: &[(String, String)]) -> Self {
        let startup: BTreeMap<_, _> =
            startup.iter().map(|(name, value)| (name.clone(), canonical(value.clone()))).collect();
        let placeholders = startup.keys().filter(|name| name.contains('.')).cloned().collect();
        let mut settings = Self { startup, placeholders, ..Self::default() };
        settings.reports();
        settings
    }

    /// The value in force; `None` if there is no such setting.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let set = self.local.get(name).or_else(|| self.session.get(name)).or_else(|| self.startup.get(name));
        let default = || match known(name) {
            Some((_, default, _)) => Some((*default).to_owned()),
            None => self.placeholders.contains(name).then(String::new),
        };
        set.cloned().or_else(default)
    }

    pub(super) fn set(&mut self, name: &str, value: Option<String>, local: bool) {
        let value = value.map(canonical);
        if name.contains('.') {
            self.placeholders.insert(name.to_owned());
        }
        if local {
            let value = value.or_else(|| {
                let reset = self.startup.get(name).cloned();
                reset.or_else(|| known(name).map(|(_, default, _)| (*default).to_owned()))
            });
            self.local.insert(name.to_owned(), value.unwrap_or_default());
            return;
        }
        self.local.remove(name);
        match value {
            Some(value) => drop(self.session.insert(name.to_owned(), value)),
            None => drop(self.session.remove(name)),
        }
    }

    /// RESET ALL exempts the role.
    pub(super) fn reset_all(&mut self) {
        self.session.retain(|name, _| name == "role");
        self.local.retain(|name, _| name == "role");
    }

    pub(super) fn discard_all(&mut self) {
        self.session.clear();
        self.local.clear();
    }

    /// What ReadyForQuery reports: settings whose values are others than were told.
    pub(super) fn reports(&mut self) -> Vec<(&'static str, String)> {
        let mut reports = Vec::new();
        for (name, ..) in KNOWN.iter().filter(|(.., reported)| *reported) {
            let value = self.value(&name.to_lowercase()).unwrap_or_default();
            if self.told.get(name) != Some(&value) {
                self.told.insert(name, value.clone());
                reports.push((*name, value));
            }
        }
        reports
    }

    /// Custom settings that were ever set.
    pub(super) fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.placeholders.iter().map(String::as_str)
    }

    /// What was told so far.
    pub(super) fn told(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.told.iter().map(|(name, value)| (*name, value.as_str()))
    }
}
