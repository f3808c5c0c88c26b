//! What is known of each user's password, in the form that each way of authentication needs.
//!
//! A verifier is derived from a plain password once, not at each login: deriving costs milliseconds, and a salt that
//! stays the same lets clients keep what they derived.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::HashMap;

use crate::config::{Secret, Settings};
use crate::server::PasswordKeys;
use crate::wire::md5::Md5Hash;
use crate::wire::scram::{DEFAULT_ITERATIONS, ScramVerifier};

/// Users whose derived secrets are kept.
const KNOWN_MAX: usize = 10_000;

/// A user's secret, ready for use.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// The password, and a verifier derived from it.
    Plain { keys: Arc<PasswordKeys>, password: Arc<str>, verifier: ScramVerifier },
    /// A SCRAM verifier.
    Scram(ScramVerifier),
    /// An md5 hash.
    Md5(Md5Hash),
}

/// What users that exist look like, and those that do not are therefore made to look like: as the user whose secret was
/// last asked for. Where all are alike nothing tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Likeness {
    /// The method `md5` asks for an md5 response, and not for SCRAM.
    by_md5: bool,
    /// Of SCRAM.
    iterations: u32,
}

impl Likeness {
    /// As PostgreSQL's own default, `password_encryption = scram-sha-256`.
    const USUAL: Self = Self { by_md5: false, iterations: DEFAULT_ITERATIONS };

    fn note(&mut self, known: &Known) {
        self.by_md5 = known.is_by_md5();
        match known {
            Known::Plain { verifier, .. } | Known::Scram(verifier) => self.iterations = verifier.iterations,
            Known::Md5(_) => {}
        }
    }
}

impl Known {
    /// What the method `md5` asks for: as PostgreSQL, for SCRAM where the stored secret is a SCRAM verifier.
    fn is_by_md5(&self) -> bool {
        match self {
            Self::Plain { .. } | Self::Md5(_) => true,
            Self::Scram(_) => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Secrets {
    /// Makes up the verifiers of users that do not exist.
    mock: [u8; 32],
    likeness: Mutex<Likeness>,
    known: Mutex<HashMap<(String, Vec<u8>), Known>>,
}

impl Secrets {
    pub(super) fn new(mock: [u8; 32]) -> Self {
        Self { mock, likeness: Mutex::new(Likeness::USUAL), known: Mutex::default() }
    }

    /// Takes the users of the configuration for what users look like, until one of them logs in.
    pub(super) fn expect(&self, settings: &Settings) {
        let mut secrets =
            settings.users.iter().filter_map(|(user, settings)| Some((user, settings.secret.as_ref()?)));
        let mut likeness = Likeness::USUAL;
        if let Some(known) = secrets.find_map(|(user, secret)| self.known(user, secret)) {
            likeness.note(&known);
        }
        *self.likeness() = likeness;
    }

    fn likeness(&self) -> MutexGuard<'_, Likeness> {
        self.likeness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the method `md5` asks this user for.
    pub(super) fn is_by_md5(&self, known: Option<&Known>) -> bool {
        known.map_or_else(|| self.likeness().by_md5, Known::is_by_md5)
    }

    /// Forgets all: settings have changed.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A verifier for a user that does not exist: always the same, never satisfied.
    pub(super) fn mock_scram(&self, user: &str) -> ScramVerifier {
        let iterations = self.likeness().iterations;
        ScramVerifier::mock(user, &self.mock, iterations)
    }

    /// Likewise for md5.
    pub(super) fn mock_md5(&self, user: &str) -> Md5Hash {
        Md5Hash::mock(user, &self.mock)
    }

    /// The user's secret, derived at the first use.
    pub(super) fn known(&self, user: &str, secret: &Secret) -> Option<Known> {
        let text = match secret {
            Secret::Plain(text) | Secret::Verifier(text) => text,
        };
        let key = (user.to_owned(), text.as_bytes().to_vec());
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lock().get(&key).cloned();
        if let Some(known) = found {
            self.likeness().note(&known);
            return Some(known);
        }
        // Without the lock: it takes milliseconds.
        let known = match secret {
            Secret::Plain(password) => Known::Plain {
                keys: Arc::new(PasswordKeys::new(password.clone())),
                verifier: ScramVerifier::from_password(
                    password.as_bytes(),
                    &rand::random::<[u8; ScramVerifier::SALT_LEN]>(),
                    DEFAULT_ITERATIONS,
                ),
                password: Arc::from(password.as_str()),
            },
            Secret::Verifier(text) => match ScramVerifier::parse(text) {
                Some(verifier) => Known::Scram(verifier),
                None => Known::Md5(Md5Hash::parse(text)?),
            },
        };
        self.likeness().note(&known);
        let mut map = lock();
        if map.len() >= KNOWN_MAX {
            map.clear();
        }
        map.insert(key, known.clone());
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scram(iterations: u32) -> Secret {
        let verifier = ScramVerifier::from_password(b"secret", &[1; ScramVerifier::SALT_LEN], iterations);
        Secret::Verifier(verifier.to_stored())
    }

    #[test]
    fn who_does_not_exist_looks_like_who_does() {
        let secrets = Secrets::new([7; 32]);
        let nobody = |secrets: &Secrets| (secrets.is_by_md5(None), secrets.mock_scram("nobody").iterations);
        assert_eq!(nobody(&secrets), (false, DEFAULT_ITERATIONS));
        let known = secrets.known("somebody", &scram(10_000)).unwrap();
        assert_eq!(nobody(&secrets), (false, 10_000));
        assert!(!secrets.is_by_md5(Some(&known)));
        let known = secrets.known("plain", &Secret::Plain("secret".to_owned())).unwrap();
        assert_eq!(nobody(&secrets), (true, DEFAULT_ITERATIONS));
        assert!(secrets.is_by_md5(Some(&known)));
        // Found again, it is as good as new.
        secrets.known("somebody", &scram(10_000)).unwrap();
        assert_eq!(nobody(&secrets), (false, 10_000));
    }

    #[test]
    fn before_the_first_login_the_configuration_says_what_users_look_like() {
        let mut settings = Settings::from_url("postgres://app@localhost/app").unwrap();
        settings.users.clear();
        let secrets = Secrets::new([7; 32]);
        secrets.expect(&settings);
        assert!(!secrets.is_by_md5(None));
        let settings = Settings::from_url("postgres://app:secret@localhost/app").unwrap();
        assert!(settings.users.values().any(|user| user.secret.is_some()));
        secrets.expect(&settings);
        assert!(secrets.is_by_md5(None));
    }
}
