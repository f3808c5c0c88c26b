//! What sessions begin with where their client says nothing else (manual, ALTER ROLE: settings of a role in a database go
//! before those of the role, these before those of the database, these before those of all roles, these before the
//! server's own).

use crate::sql::command::Isolation;

/// The settings that decide where a session's statements may go.
pub const SETTINGS: [&str; 4] = [
    "default_transaction_isolation",
    "default_transaction_read_only",
    "default_transaction_deferrable",
    "synchronous_commit",
];

/// Who has a setting; what stands further down goes before what stands above it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The server, by its configuration.
    Server,
    /// ALTER ROLE ALL
    AllRoles,
    /// ALTER DATABASE, of this one.
    Database,
    /// ALTER ROLE
    Role(Box<str>),
    /// ALTER ROLE IN DATABASE, of this one.
    RoleHere(Box<str>),
}

/// The defaults of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults(pub Vec<(Owner, Box<str>, Box<str>)>);

/// What a session begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionDefaults {
    /// `default_transaction_isolation`
    pub isolation: Isolation,
    /// `default_transaction_read_only`
    pub read_only: bool,
    /// `default_transaction_deferrable`
    pub deferrable: bool,
    /// `synchronous_commit` is not off: a commit has been flushed when it is answered.
    pub flushes_commits: bool,
}

impl Defaults {
    /// The value of a setting for a user's sessions; `None` where it is not known.
    pub fn value(&self, user: &str, name: &str) -> Option<&str> {
        let concerns = |owner: &Owner| match owner {
            Owner::Server | Owner::AllRoles | Owner::Database => true,
            Owner::Role(role) | Owner::RoleHere(role) => **role == *user,
        };
        let rows = self.0.iter().filter(|(owner, of, _)| **of == *name && concerns(owner));
        rows.max_by_key(|(owner, ..)| owner).map(|(.., value)| value.as_ref())
    }

    /// What a user's sessions begin with; `None` where any of it is not known.
    pub fn session(&self, user: &str) -> Option<SessionDefaults> {
        let [isolation, read_only, deferrable, commit] = SETTINGS.map(|name| self.value(user, name));
        Some(SessionDefaults {
            isolation: Isolation::from_name(isolation?.as_bytes())?,
            read_only: boolean(read_only?)?,
            deferrable: boolean(deferrable?)?,
            flushes_commits: match commit? {
                "on" | "local" | "remote_write" | "remote_apply" => true,
                // Also true, yes, 1: PostgreSQL takes them, and keeps what was written.
                other => boolean(other)?,
            },
        })
    }
}

/// As PostgreSQL reads one (manual, 20.1.1 Parameter Names and Values): also cut short, as long as it stays unique.
fn boolean(value: &str) -> Option<bool> {
    let value = value.trim().to_ascii_lowercase();
    let is = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if is("on", 2) || is("true", 1) || is("yes", 1) || value == "1" {
        Some(true)
    } else if is("off", 2) || is("false", 1) || is("no", 1) || value == "0" {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_owner_decides() {
        let row = |owner, name: &str, value: &str| (owner, name.into(), value.into());
        let mut defaults = Defaults(vec![
            row(Owner::Server, SETTINGS[0], "read committed"),
            row(Owner::Server, SETTINGS[1], "off"),
            row(Owner::Server, SETTINGS[2], "off"),
        ]);
        assert_eq!(defaults.session("app"), None, "one is not known");
        defaults.0.push(row(Owner::Server, SETTINGS[3], "on"));
        let usual = SessionDefaults {
            isolation: Isolation::ReadCommitted,
            read_only: false,
            deferrable: false,
            flushes_commits: true,
        };
        assert_eq!(defaults.session("app"), Some(usual));
        defaults.0.insert(0, row(Owner::RoleHere("app".into()), SETTINGS[0], "Serializable"));
        defaults.0.push(row(Owner::Role("app".into()), SETTINGS[0], "repeatable read"));
        defaults.0.push(row(Owner::Database, SETTINGS[1], "yes"));
        defaults.0.push(row(Owner::AllRoles, SETTINGS[1], "no"));
        defaults.0.push(row(Owner::AllRoles, SETTINGS[3], "off"));
        let own = SessionDefaults {
            isolation: Isolation::Serializable,
            read_only: true,
            flushes_commits: false,
            ..usual
        };
        assert_eq!(defaults.session("app"), Some(own));
        assert_eq!(
            defaults.session("bench"),
            Some(SessionDefaults { isolation: Isolation::ReadCommitted, ..own })
        );
        defaults.0.push(row(Owner::Role("bench".into()), SETTINGS[0], "nonsense"));
        assert_eq!(defaults.session("bench"), None);
    }
}
