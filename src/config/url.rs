//! Connection URLs as libpq reads them (manual, 34.1.1.2 Connection URIs), and as SQLAlchemy writes them.
//!
//! Parsed by hand, because URLs of PostgreSQL may name several hosts, which the `url` crate refuses. Beyond libpq's
//! parameters there are two of ours: `name` and `weight` of a host. Nothing here shows a URL in a mistake: it holds
//! a password.

use std::path::Path;

use percent_encoding::percent_decode_str;

use super::settings::{HostAddress, SslMode};
use super::value::{Wrong, shown, word};

const DEFAULT_PORT: u16 = 5432;

const SSL_MODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const PARAMETERS: [&str; 11] = [
    "user",
    "password",
    "host",
    "port",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "name",
    "weight",
];

/// What a URL says; `None` is what it leaves out.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct ServerUrl {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) hosts: Vec<UrlHost>,
    pub(super) database: Option<String>,
    pub(super) ssl_mode: Option<SslMode>,
    pub(super) ssl_root_cert: Option<String>,
    pub(super) ssl_cert: Option<String>,
    pub(super) ssl_key: Option<String>,
    pub(super) name: Option<String>,
    pub(super) weight: Option<u32>,
}

/// One of the hosts of a URL. A host that starts with `/` is the directory of a Unix socket.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct UrlHost {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
}

impl UrlHost {
    /// The address, with what is left out taken from libpq's defaults.
    pub(super) fn address(&self, default_port: Option<u16>) -> HostAddress {
        let port = self.port.or(default_port).unwrap_or(DEFAULT_PORT);
        match self.host.as_deref() {
            Some(directory) if directory.starts_with('/') => {
                HostAddress::Unix(Path::new(directory).join(format!(".s.PGSQL.{port}")))
            }
            host => HostAddress::Tcp { host: host.unwrap_or("localhost").to_owned(), port },
        }
    }
}

impl ServerUrl {
    /// Reads a URL; all that is wrong with it comes out at once.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<Wrong>> {
        let rest = strip_scheme(text).map_err(|wrong| vec![wrong])?;
        let mut url = Self::default();
        let mut wrong = Vec::new();

        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        url.user = decode("user", user, &mut wrong);
        url.password = decode("password", password, &mut wrong);
        url.database = decode("database", database, &mut wrong);
        if !hosts.is_empty() {
            url.hosts = hosts.split(',').filter_map(|host| note(parse_host(host), &mut wrong)).collect();
        }
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if !PARAMETERS.contains(&name) {
                let expected = format!("a URL with parameters among {}", PARAMETERS.join(", "));
                wrong.push(Wrong::with_got(expected, format!("the parameter {}", shown(name))));
            } else if let Some(value) = decode(name, value, &mut wrong) {
                note(url.set(name, value), &mut wrong);
            }
        }
        // Then what looks like a host may be part of the password: say that, and show none of it.
        let is_cut_short = login.is_empty() && text.contains('@');
        match wrong {
            wrong if wrong.is_empty() => Ok(url),
            _ if is_cut_short => Err(vec![Wrong::with_got(
                "a URL with %2F for /, %3F for ? and %23 for # in the password",
                "one of these before the @",
            )]),
            wrong => Err(wrong),
        }
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), Wrong> {
        match name {
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" => self.database = Some(value),
            "host" => self.set_hosts(&value)?,
            "port" => self.set_ports(&value)?,
            "sslmode" => {
                let wrong =
                    |wrong: Wrong| Wrong::with_got(wrong.expected, format!("sslmode={}", shown(&value)));
                self.ssl_mode = Some(word(&value, &SSL_MODES).map_err(wrong)?);
            }
            "sslrootcert" => self.ssl_root_cert = Some(value),
            "sslcert" => self.ssl_cert = Some(value),
            "sslkey" => self.ssl_key = Some(value),
            "name" => self.name = Some(value),
            // `PARAMETERS` has no more.
            _ => {
                let weight = value.parse().ok().filter(|weight| *weight <= 1000);
                let wrong =
                    || Wrong::with_got("a weight from 0 to 1000", format!("weight={}", shown(&value)));
                self.weight = Some(weight.ok_or_else(wrong)?);
            }
        }
        Ok(())
    }

    fn set_hosts(&mut self, value: &str) -> Result<(), Wrong> {
        let ports: Vec<_> = self.hosts.iter().map(|host| host.port).collect();
        let hosts = value.split(',').enumerate().map(|(index, host)| {
            let host = check_host(host)?.map(str::to_owned);
            Ok(UrlHost { host, port: ports.get(index).or(ports.first()).copied().flatten() })
        });
        self.hosts = hosts.collect::<Result<_, Wrong>>()?;
        Ok(())
    }

    /// One port for all hosts, or one for each.
    fn set_ports(&mut self, value: &str) -> Result<(), Wrong> {
        let ports = value.split(',').map(parse_port).collect::<Result<Vec<_>, Wrong>>()?;
        if self.hosts.is_empty() {
            self.hosts.resize(ports.len(), UrlHost::default());
        }
        if ports.len() != 1 && ports.len() != self.hosts.len() {
            let got = format!("{} ports for {} hosts", ports.len(), self.hosts.len());
            return Err(Wrong::with_got("one port, or as many ports as hosts", got));
        }
        for (index, host) in self.hosts.iter_mut().enumerate() {
            host.port = ports.get(index).or(ports.first()).copied();
        }
        Ok(())
    }
}

/// Accepts SQLAlchemy's `postgresql+driver` too, so that the application's own URL can be pasted.
fn strip_scheme(text: &str) -> Result<&str, Wrong> {
    const EXPECTED: &str = "a URL such as postgres://user:password@host:5432/database";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Wrong::with_got(EXPECTED, "a text without ://"));
    };
    let dialect = scheme.split('+').next();
    if matches!(dialect, Some("postgres" | "postgresql")) {
        Ok(rest)
    } else {
        // Not what stands there: without the right scheme it may be anything, a password too.
        Err(Wrong::with_got(EXPECTED, "another scheme"))
    }
}

fn decode(what: &str, text: &str, wrong: &mut Vec<Wrong>) -> Option<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if text.contains('\0') => {
            wrong.push(Wrong::with_got(format!("a URL whose {what} has no zero byte"), "%00"));
            None
        }
        Ok(text) => Some(text.into_owned()).filter(|text| !text.is_empty()),
        Err(_) => {
            wrong.push(Wrong::with_got(format!("a URL whose {what} is UTF-8"), "other bytes"));
            None
        }
    }
}

fn parse_host(text: &str) -> Result<UrlHost, Wrong> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let wrong = || Wrong::with_got("an IPv6 address in brackets", shown(text));
        let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
        (Some(address.to_owned()), port)
    } else {
        let at = text.find(':').unwrap_or(text.len());
        let decoded = percent_decode_str(&text[..at]).decode_utf8_lossy();
        (check_host(&decoded)?.map(str::to_owned), &text[at..])
    };
    let port = match port.strip_prefix(':') {
        Some("") => None,
        Some(port) => Some(parse_port(port)?),
        None if port.is_empty() => None,
        None => return Err(Wrong::with_got("a port behind the brackets", shown(text))),
    };
    Ok(UrlHost { host, port })
}

fn check_host(host: &str) -> Result<Option<&str>, Wrong> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    if host.is_empty() {
        Ok(None)
    } else if is_address || host.starts_with('/') && !host.contains('\0') || host.bytes().all(is_name) {
        Ok(Some(host))
    } else {
        Err(Wrong::with_got("a host name, an IP address or the directory of a Unix socket", shown(host)))
    }
}

fn parse_port(text: &str) -> Result<u16, Wrong> {
    let port = text.parse().ok().filter(|port| *port != 0);
    // Without an @ in the URL it may be a password that stands where a port should.
    port.ok_or_else(|| Wrong::with_got("a port from 1 to 65535", "another text"))
}

fn note<T>(result: Result<T, Wrong>, wrong: &mut Vec<Wrong>) -> Option<T> {
    result.map_err(|one| wrong.push(one)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(text: &str) -> Vec<HostAddress> {
        let url = ServerUrl::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
        url.hosts.iter().map(|host| host.address(None)).collect()
    }

    fn tcp(host: &str, port: u16) -> HostAddress {
        HostAddress::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn all_parts_are_read_and_decoded() {
        let url = "postgresql+psycopg2://a%40b:p%3Aw%2F@db1:5433/my%20db?sslmode=verify-full&sslrootcert=%2Fca.pem\
                   &sslcert=c.pem&sslkey=k.pem&name=main&weight=3";
        let url = ServerUrl::parse(url).unwrap_or_default();
        assert_eq!(url.user.as_deref(), Some("a@b"));
        assert_eq!(url.password.as_deref(), Some("p:w/"));
        assert_eq!(url.hosts, [UrlHost { host: Some("db1".to_owned()), port: Some(5433) }]);
        assert_eq!(url.database.as_deref(), Some("my db"));
        assert_eq!(url.ssl_mode, Some(SslMode::VerifyFull));
        assert_eq!(url.ssl_root_cert.as_deref(), Some("/ca.pem"));
        assert_eq!((url.ssl_cert.as_deref(), url.ssl_key.as_deref()), (Some("c.pem"), Some("k.pem")));
        assert_eq!((url.name.as_deref(), url.weight), (Some("main"), Some(3)));
    }

    #[test]
    fn hosts_are_those_that_libpq_would_try() {
        let unix = |path: &str| HostAddress::Unix(path.into());
        for (text, expected) in [
            ("postgres://db1", vec![tcp("db1", 5432)]),
            (
                "postgres://u@db1:6000,db2,db3:7000/x",
                vec![tcp("db1", 6000), tcp("db2", 5432), tcp("db3", 7000)],
            ),
            ("postgres://[::1]:6000/x", vec![tcp("::1", 6000)]),
            ("postgres://[2001:db8::1]", vec![tcp("2001:db8::1", 5432)]),
            ("postgres://%2Fvar%2Frun/x", vec![unix("/var/run/.s.PGSQL.5432")]),
            ("postgres://u@/x?host=/tmp&port=6000", vec![unix("/tmp/.s.PGSQL.6000")]),
            ("postgres://u@:6000/x?host=/tmp", vec![unix("/tmp/.s.PGSQL.6000")]),
            ("postgres:///x?host=a,b&port=1,2", vec![tcp("a", 1), tcp("b", 2)]),
            ("postgres:///x?host=::1", vec![tcp("::1", 5432)]),
            ("postgres://u@:6000", vec![tcp("localhost", 6000)]),
            ("postgres:///x", vec![]),
        ] {
            assert_eq!(addresses(text), expected, "{text}");
        }
    }

    #[test]
    fn a_password_may_hold_an_at_sign() {
        let url = ServerUrl::parse("postgres://app:p@ss@db1/app").unwrap_or_default();
        assert_eq!((url.password.as_deref(), url.hosts.len()), (Some("p@ss"), 1));
    }

    #[test]
    fn everything_wrong_is_told_and_nothing_secret() {
        let url = "postgres://app:topsecret@db 1,[zz],db3:99999/x?sslmode=allow&color=red&weight=x";
        let wrong = ServerUrl::parse(url).err().unwrap_or_default();
        let got: Vec<_> = wrong.iter().filter_map(|wrong| wrong.got.as_deref()).collect();
        let expected = [
            "\"db 1\"",
            "\"[zz]\"",
            "another text",
            "sslmode=\"allow\"",
            "the parameter \"color\"",
            "weight=\"x\"",
        ];
        assert_eq!(got, expected);

        for url in [
            "app:topsecret@db1/app",
            "mysql://app:topsecret@db1/app",
            "topsecret://",
            "postgres://app:topsecret",
            "postgres://app:top/secret@db1/app",
            "postgres://app:4/topsecret?@db1/app",
            "postgres://app:x?topsecret@db1/app",
        ] {
            let wrong = ServerUrl::parse(url).err().unwrap_or_default();
            assert!(!format!("{wrong:?}").contains("topsecret") && wrong.len() == 1, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", structured in "postgres://[a%:@\\[\\]/,.0-9]{0,20}\\??[a-z=&,%/0-9]{0,20}") {
            for text in [text.clone(), format!("postgres://{text}"), structured] {
                for host in ServerUrl::parse(&text).unwrap_or_default().hosts {
                    host.address(None);
                }
            }
        }
    }
}
