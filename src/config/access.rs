//! Access rules in the words of `pg_hba.conf` (manual, 21.1): one text per rule, so that lines can be copied over.
//!
//! What Weir cannot answer from its own knowledge (group membership, host names, `samenet`, files) is a mistake
//! rather than a rule that never matches.

use std::net::IpAddr;

use ipnet::IpNet;

use super::settings::{AccessRule, AuthMethod, ConnectionKind};
use super::value::{Read, Wrong, shown, word};

const CONNECTION_KINDS: [(&str, ConnectionKind); 4] = [
    ("local", ConnectionKind::Local),
    ("host", ConnectionKind::Host),
    ("hostssl", ConnectionKind::HostSsl),
    ("hostnossl", ConnectionKind::HostNoSsl),
];

const METHODS: [(&str, AuthMethod); 6] = [
    ("trust", AuthMethod::Trust),
    ("reject", AuthMethod::Reject),
    ("scram-sha-256", AuthMethod::ScramSha256),
    ("md5", AuthMethod::Md5),
    ("password", AuthMethod::Password),
    ("cert", AuthMethod::Cert),
];

/// What applies when there are no rules: everybody may come, with a password, for replication too.
pub(super) fn default_rules() -> Vec<AccessRule> {
    let rule = |connection| AccessRule {
        connection,
        databases: None,
        replication: true,
        users: Vec::new(),
        addresses: Vec::new(),
        method: AuthMethod::ScramSha256,
    };
    vec![rule(ConnectionKind::Local), rule(ConnectionKind::Host)]
}

/// Reads `TYPE DATABASE USER [ADDRESS] METHOD`.
pub(super) fn rule(text: &str) -> Read<AccessRule> {
    let fields = fields(text);
    let (connection, databases, users, address, method) = match &fields[..] {
        [local, databases, users, method] if local.is_word("local") => {
            (local, databases, users, None, method)
        }
        [host, databases, users, address, method] if !host.is_word("local") => {
            (host, databases, users, Some(address), method)
        }
        _ => {
            return Err(Wrong::with_got(
                "a rule such as \"host all all 10.0.0.0/8 scram-sha-256\" or \"local all all scram-sha-256\"",
                shown(text),
            ));
        }
    };
    let (databases, replication) = databases.databases()?;
    Ok(AccessRule {
        connection: connection.word(&CONNECTION_KINDS)?,
        databases,
        replication,
        users: users.names(&[])?,
        addresses: address.map(Field::networks).transpose()?.unwrap_or_default(),
        method: method.word(&METHODS)?,
    })
}

/// A field of a rule: a list with commas.
#[derive(Default)]
struct Field(Vec<Token>);

/// `all` is a keyword; `"all"` in quotes is a name.
#[derive(Clone, Default)]
struct Token {
    text: String,
    is_quoted: bool,
}

impl Field {
    fn is_word(&self, word: &str) -> bool {
        matches!(&self.0[..], [token] if token.text == word)
    }

    fn is_all(&self) -> bool {
        self.0.iter().any(|token| !token.is_quoted && token.text == "all")
    }

    fn word<T: Copy>(&self, words: &[(&str, T)]) -> Read<T> {
        let tokens: Vec<&str> = self.0.iter().map(|token| token.text.as_str()).collect();
        word(&tokens.join(","), words)
    }

    /// Databases, or all of them, and whether `replication` is among them, which is none.
    fn databases(&self) -> Read<(Option<Vec<String>>, bool)> {
        let is_replication = |token: &&Token| !token.is_quoted && token.text == "replication";
        let replication = self.0.iter().any(|token| is_replication(&token));
        if self.is_all() {
            return Ok((None, replication));
        }
        let named = Self(self.0.iter().filter(|token| !is_replication(token)).cloned().collect());
        Ok((Some(named.names(&["sameuser", "samerole", "samegroup"])?), replication))
    }

    fn names(&self, keywords: &[&str]) -> Read<Vec<String>> {
        if self.is_all() {
            return Ok(Vec::new());
        }
        let name = |token: &Token| {
            let is_keyword =
                keywords.contains(&token.text.as_str()) || token.text.starts_with(['+', '@', '/']);
            if token.text.is_empty() || is_keyword && !token.is_quoted {
                Err(Wrong::with_got("names or all", shown(&token.text)))
            } else {
                Ok(token.text.clone())
            }
        };
        self.0.iter().map(name).collect()
    }

    fn networks(&self) -> Read<Vec<IpNet>> {
        if self.is_all() {
            return Ok(Vec::new());
        }
        let network = |Token { text, .. }: &Token| {
            let single = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse()
                .or_else(|_| single())
                .map_err(|_| Wrong::with_got("networks such as 10.0.0.0/8, or all", shown(text)))
        };
        self.0.iter().map(network).collect()
    }
}

/// Splits at blanks; a comma holds a field together, with or without a blank behind it.
fn fields(text: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut field = Field::default();
    let mut token: Option<Token> = None;
    let mut in_quotes = false;
    for character in text.chars() {
        match character {
            '"' => {
                in_quotes = !in_quotes;
                token.get_or_insert_default().is_quoted = true;
            }
            ',' if !in_quotes => field.0.push(token.take().unwrap_or_default()),
            ' ' | '\t' if !in_quotes => {
                if let Some(token) = token.take() {
                    field.0.push(token);
                    fields.push(std::mem::take(&mut field));
                }
            }
            other => token.get_or_insert_default().text.push(other),
        }
    }
    field.0.extend(token);
    if !field.0.is_empty() {
        fields.push(field);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_of_pg_hba_are_read() {
        use ConnectionKind::{Host, HostSsl, Local};
        let everyone = |connection, method| AccessRule {
            connection,
            databases: None,
            replication: false,
            users: vec![],
            addresses: vec![],
            method,
        };
        for (text, expected) in [
            ("local all all scram-sha-256", everyone(Local, AuthMethod::ScramSha256)),
            ("host\tall  all all\tmd5 ", everyone(Host, AuthMethod::Md5)),
            (
                "hostssl app,shop \"all\", \"the boss\" 10.0.0.0/8,::1 cert",
                AccessRule {
                    databases: Some(strings(&["app", "shop"])),
                    users: strings(&["all", "the boss"]),
                    addresses: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
                    ..everyone(HostSsl, AuthMethod::Cert)
                },
            ),
        ] {
            assert_eq!(rule(text), Ok(expected), "{text}");
        }
        let of = |text| rule(text).map(|rule| (rule.databases, rule.replication));
        assert_eq!(of("local replication all trust"), Ok((Some(vec![]), true)));
        assert_eq!(of("local app,replication all trust"), Ok((Some(strings(&["app"])), true)));
        assert_eq!(of("local \"replication\" all trust"), Ok((Some(strings(&["replication"])), false)));
        let defaults =
            ["local all,replication all scram-sha-256", "host all,replication all all scram-sha-256"];
        assert_eq!(defaults.map(|text| rule(text).unwrap()).to_vec(), default_rules());
    }

    #[test]
    fn what_weir_cannot_know_is_refused() {
        for (text, got) in [
            ("", "\"\""),
            ("local all all all trust", "\"local all all all trust\""),
            ("host all all trust", "\"host all all trust\""),
            ("hostgssenc all all all trust", "\"hostgssenc\""),
            ("host sameuser all all trust", "\"sameuser\""),
            ("host all +admins all trust", "\"+admins\""),
            ("host all all samenet trust", "\"samenet\""),
            ("host all all db.example.org trust", "\"db.example.org\""),
            ("host all all 10.0.0.0/33 trust", "\"10.0.0.0/33\""),
            ("host all all all ldap", "\"ldap\""),
        ] {
            assert_eq!(rule(text).unwrap_err().got.as_deref(), Some(got), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", nearly in "(local|host) (all|[\", +a]{0,5}) all (all )?md5") {
            let _ = (rule(&text), rule(&nearly));
        }
    }
}
