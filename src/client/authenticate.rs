//! Who the client is, and how it proves that (manual, 21 and 55.2.1): the first access rule that speaks of it decides.
//!
//! An unknown user takes the same way as a wrong password, with a made-up verifier.

use std::sync::Arc;

use super::fault::LoginError;
use super::login::{LOGIN_MESSAGE_BYTES_MAX, Login, text};
use super::secrets::Known;
use crate::config::{AccessRule, AuthMethod, ConnectionKind, Secret};
use crate::net::Peer;
use crate::pg::SqlState;
use crate::server::{Credentials, PasswordKeys};
use crate::wire::build::{self, Authentication};
use crate::wire::frame::{self, Fields, Next};
use crate::wire::scram::{Nonce, ScramError, ScramServer};
use crate::wire::startup::Replication;
use crate::wire::{Malformed, frontend};

impl Login {
    /// A message of the authentication exchange.
    async fn password_message(&mut self) -> Result<Vec<u8>, LoginError> {
        self.connection().flush().await?;
        loop {
            // Before its length is believed.
            if let Some(&tag) = self.connection().input().first()
                && tag != frontend::PASSWORD
            {
                return Err(Malformed::Unexpected(tag).into());
            }
            if let Next::Frame(message) = frame::next(self.connection().input(), LOGIN_MESSAGE_BYTES_MAX)? {
                let (bytes, body) = (message.bytes.len(), message.body().to_vec());
                self.connection().consume(bytes);
                return Ok(body);
            }
            if self.connection().fill().await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Finds the rule for this client and has it prove who it is.
    pub(super) async fn authenticate(
        &mut self,
        user: &str,
        database: &str,
        replication: Option<Replication>,
    ) -> Result<Credentials, LoginError> {
        let tls = self.encrypted;
        let database = match replication {
            Some(Replication::Physical) => None,
            Some(Replication::Logical) | None => Some(database),
        };
        let rule = self.settings.access.iter().find(|rule| speaks_of(rule, self.peer, tls, database, user));
        let database =
            database.map_or_else(|| "replication".to_owned(), |name| format!("database \"{name}\""));
        let Some(method) = rule.map(|rule| rule.method) else {
            let encryption = if tls { "SSL encryption" } else { "no encryption" };
            let host = self.peer.ip().map_or_else(|| "[local]".to_owned(), |ip| ip.to_string());
            return Err(LoginError::refused(
                SqlState::INVALID_AUTHORIZATION,
                format!("no access rule for host \"{host}\", user \"{user}\", {database}, {encryption}"),
            ));
        };
        let secret = self.secret(user).await;
        let known = secret.as_ref().and_then(|secret| self.proxy.secrets.known(user, secret));
        match method {
            AuthMethod::Trust => Ok(match known {
                Some(Known::Plain { keys, .. }) => Credentials::Password(keys),
                Some(Known::Md5(hash)) => Credentials::Md5(hash),
                Some(Known::Scram(_)) | None => Credentials::None,
            }),
            AuthMethod::Reject => Err(LoginError::refused(
                SqlState::INVALID_AUTHORIZATION,
                format!("an access rule rejects connections of user \"{user}\" for {database}"),
            )),
            AuthMethod::Cert => match &self.common_name {
                Some(name) if name == user => Ok(match known {
                    Some(Known::Plain { keys, .. }) => Credentials::Password(keys),
                    Some(Known::Md5(hash)) => Credentials::Md5(hash),
                    Some(Known::Scram(_)) | None => Credentials::None,
                }),
                _ => Err(LoginError::refused(
                    SqlState::INVALID_AUTHORIZATION,
                    format!("certificate authentication failed for user \"{user}\""),
                )),
            },
            AuthMethod::Password => self.cleartext(user, known).await,
            AuthMethod::Md5 if self.proxy.secrets.is_by_md5(known.as_ref()) => self.md5(user, known).await,
            AuthMethod::Md5 | AuthMethod::ScramSha256 => self.scram(user, known).await,
        }
    }

    async fn secret(&self, user: &str) -> Option<Secret> {
        if let Some(secret) = self.settings.users.get(user).and_then(|settings| settings.secret.clone()) {
            return Some(secret);
        }
        self.proxy.lookup_secret(user).await
    }

    async fn cleartext(&mut self, user: &str, known: Option<Known>) -> Result<Credentials, LoginError> {
        let private = self.encrypted || self.connection().stream().is_unix();
        if !private {
            return Err(LoginError::refused(
                SqlState::INVALID_AUTHORIZATION,
                "cleartext passwords are accepted over TLS only",
            ));
        }
        build::authentication(self.connection().output(), Authentication::CleartextPassword);
        let body = self.password_message().await?;
        let password = Fields::new(&body).cstr()?;
        // The same work whoever it is: one key is derived.
        let (verifier, hash) = match &known {
            Some(Known::Plain { verifier, .. } | Known::Scram(verifier)) => (verifier.clone(), None),
            Some(Known::Md5(hash)) => (self.proxy.secrets.mock_scram(user), Some(hash)),
            None => (self.proxy.secrets.mock_scram(user), None),
        };
        let by_scram = verifier.verify_password(password).is_some();
        let proved = hash.map_or(by_scram, |hash| hash.verify_password(user, password));
        if !proved {
            return Err(wrong_password(user));
        }
        let password = String::from_utf8(password.to_vec()).map_err(|_| wrong_password(user))?;
        Ok(Credentials::Password(Arc::new(PasswordKeys::new(password))))
    }

    async fn md5(&mut self, user: &str, known: Option<Known>) -> Result<Credentials, LoginError> {
        let salt: [u8; 4] = rand::random();
        build::authentication(self.connection().output(), Authentication::Md5Password(salt));
        let body = self.password_message().await?;
        let response = Fields::new(&body).cstr()?.to_vec();
        let hash = match &known {
            Some(Known::Md5(hash)) => hash.clone(),
            Some(Known::Plain { password, .. }) => {
                crate::wire::md5::Md5Hash::from_password(user, password.as_bytes())
            }
            Some(Known::Scram(_)) | None => self.proxy.secrets.mock_md5(user),
        };
        let proved = hash.verify(salt, &response);
        match known {
            Some(Known::Plain { keys, .. }) if proved => Ok(Credentials::Password(keys)),
            Some(Known::Md5(hash)) if proved => Ok(Credentials::Md5(hash)),
            _ => Err(wrong_password(user)),
        }
    }

    async fn scram(&mut self, user: &str, known: Option<Known>) -> Result<Credentials, LoginError> {
        let exchange = ScramServer::new(self.end_point.clone());
        build::authentication(self.connection().output(), Authentication::Sasl(exchange.mechanisms()));
        let initial = self.password_message().await?;
        let mut fields = Fields::new(&initial);
        let mechanism = text(Some(fields.cstr()?)).ok_or(Malformed::Truncated)?;
        let length = fields.u32()?;
        let first = if length == u32::MAX {
            // No initial response: it is asked for.
            build::authentication(self.connection().output(), Authentication::SaslContinue(b""));
            self.password_message().await?
        } else {
            if usize::try_from(length) != Ok(fields.rest().len()) {
                return Err(Malformed::Length.into());
            }
            fields.rest().to_vec()
        };
        let verifier = match &known {
            Some(Known::Plain { verifier, .. } | Known::Scram(verifier)) => verifier.clone(),
            Some(Known::Md5(_)) | None => self.proxy.secrets.mock_scram(user),
        };
        let failed = |error: ScramError| match error.sqlstate() {
            SqlState::INVALID_PASSWORD => wrong_password(user),
            sqlstate => LoginError::refused(sqlstate, error.to_string()),
        };
        let nonce = Nonce::from_random(rand::random());
        let (challenge, exchange) =
            exchange.client_first(&mechanism, &first, verifier, &nonce).map_err(failed)?;
        build::authentication(self.connection().output(), Authentication::SaslContinue(&challenge));
        let last = self.password_message().await?;
        let (proof, keys) = exchange.client_final(&last).map_err(failed)?;
        let credentials = match known {
            Some(Known::Plain { keys, .. }) => Credentials::Password(keys),
            Some(Known::Scram(_)) => Credentials::Scram(keys),
            Some(Known::Md5(_)) | None => return Err(wrong_password(user)),
        };
        build::authentication(self.connection().output(), Authentication::SaslFinal(&proof));
        Ok(credentials)
    }
}

/// Without a database it is physical replication that the rule must speak of.
fn speaks_of(rule: &AccessRule, peer: Peer, tls: bool, database: Option<&str>, user: &str) -> bool {
    let connection = match (rule.connection, peer) {
        (ConnectionKind::Local, Peer::Unix) | (ConnectionKind::Host, Peer::Tcp(_)) => true,
        (ConnectionKind::Local, Peer::Tcp(_)) | (_, Peer::Unix) => false,
        (ConnectionKind::HostSsl, Peer::Tcp(_)) => tls,
        (ConnectionKind::HostNoSsl, Peer::Tcp(_)) => !tls,
    };
    let address = match peer.ip() {
        Some(ip) => rule.addresses.is_empty() || rule.addresses.iter().any(|network| network.contains(&ip)),
        None => true,
    };
    let database = match (database, &rule.databases) {
        (None, _) => rule.replication,
        (Some(_), None) => true,
        (Some(database), Some(names)) => names.iter().any(|name| name == database),
    };
    let user = rule.users.is_empty() || rule.users.iter().any(|name| name == user);
    connection && address && database && user
}

fn wrong_password(user: &str) -> LoginError {
    LoginError::refused(
        SqlState::INVALID_PASSWORD,
        format!("password authentication failed for user \"{user}\""),
    )
}
