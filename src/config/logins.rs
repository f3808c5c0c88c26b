//! Who may log in, from where, and how it is proven.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeValue;

use super::access;
use super::check::{Check, POOL_MODES};
use super::file::{Origin, Section, Written};
use super::settings::{
    AccessRule, AuthMethod, AuthQuerySettings, ClientTlsSettings, ConnectionKind, Secret, UserSettings,
};
use super::value::{Read, Wrong, boolean, duration, limit, one_of, secret_text, text};

const AUTH_QUERY: &str = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin \
                          AND (rolvaliduntil IS NULL OR rolvaliduntil > now())";

impl Check<'_> {
    pub(super) fn users(&self, root: &mut Section<'_>) -> BTreeMap<String, UserSettings> {
        let user = |(name, mut section): (Written<String>, Section<'_>)| {
            let password = section.written("password", secret_text);
            let user = UserSettings {
                secret: password.and_then(|password| self.secret(password)),
                pool_mode: section.read("pool_mode", one_of(&POOL_MODES)),
                pool_max: section.read("pool_max", limit(100_000)).flatten(),
            };
            section.finish();
            (name.value, user)
        };
        root.named_sections("users").into_iter().map(user).collect()
    }

    /// Tells a verifier from a password by its form, as `CREATE ROLE ... PASSWORD` does.
    fn secret(&self, Written { value, origin }: Written<String>) -> Option<Secret> {
        let is_md5 = value.len() == 35
            && value.strip_prefix("md5").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_md5 {
            return Some(Secret::Verifier(value.to_ascii_lowercase()));
        }
        let Some(verifier) = value.strip_prefix("SCRAM-SHA-256$") else {
            return Some(Secret::Plain(value));
        };
        // The parts are decoded where they are used; here a truncated or mistyped one is noticed.
        let is_base64 = |text: &str, len_min: usize| {
            text.len() >= len_min
                && text.len().is_multiple_of(4)
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
        };
        let is_complete = || {
            let (header, keys) = verifier.split_once('$')?;
            let (iterations, salt) = header.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let is_counted = iterations.parse::<u32>().is_ok_and(|iterations| iterations > 0);
            let are_keys = stored_key.len() == 44 && server_key.len() == 44;
            let are_base64 = is_base64(salt, 4) && is_base64(stored_key, 44) && is_base64(server_key, 44);
            Some(is_counted && are_keys && are_base64)
        };
        if is_complete() == Some(true) {
            return Some(Secret::Verifier(value));
        }
        self.note(&origin, "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey in full", "a part of it");
        None
    }

    pub(super) fn access(&self, root: &mut Section<'_>, tls: Option<&ClientTlsSettings>) -> Vec<AccessRule> {
        let read = |value: &DeValue<'_>| access::rule(&text(value)?);
        let Some(rules) = root.list("access", read) else {
            return access::default_rules();
        };
        let has_client_ca = tls.is_some_and(|tls| tls.client_ca_pem.is_some());
        for Written { value: rule, origin } in &rules {
            if rule.connection == ConnectionKind::HostSsl && tls.is_none() {
                self.note(origin, "clients.tls with a hostssl rule", "none");
            }
            if rule.method == AuthMethod::Cert && rule.connection != ConnectionKind::HostSsl {
                self.note(origin, "hostssl with the method cert", "another connection type");
            } else if rule.method == AuthMethod::Cert && !has_client_ca {
                self.note(origin, "clients.tls.client_ca with the method cert", "none");
            }
        }
        if rules.is_empty() {
            let origin = Origin::without_line(self.file, "access");
            self.note(&origin, "at least one rule", "none");
        }
        rules.into_iter().map(|rule| rule.value).collect()
    }
}

pub(super) fn auth_query(mut section: Section<'_>) -> Option<AuthQuerySettings> {
    let is_enabled = section.read("enabled", boolean).unwrap_or(true);
    let read_query = |value: &DeValue<'_>| -> Read<String> {
        text(value).ok().filter(|query| query.contains("$1")).ok_or_else(|| Wrong::new("a query with $1"))
    };
    let auth_query = AuthQuerySettings {
        query: section.read("query", read_query).unwrap_or_else(|| AUTH_QUERY.to_owned()),
        ttl: section.read("ttl", duration("0s"..="1d")).unwrap_or(Duration::from_secs(60)),
    };
    section.finish();
    is_enabled.then_some(auth_query)
}
