//! The hosts: the primary's URL, the replicas', and what holds for all of them.

use std::path::Path;

use super::check::Check;
use super::file::{Origin, Section, Written};
use super::settings::{HostSettings, Login, SslMode};
use super::url::{ServerUrl, UrlHost};
use super::value;

/// Where distributions keep the certificate authorities, for `sslrootcert=system`.
const SYSTEM_CA_FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The hosts, and what their URLs say of all of them.
pub(super) struct Hosts {
    pub(super) list: Vec<HostSettings>,
    pub(super) login: Login,
    pub(super) ssl_mode: SslMode,
    pub(super) ca_pem: Option<Vec<u8>>,
    pub(super) certificate: Option<(Vec<u8>, Vec<u8>)>,
}

impl Check<'_> {
    pub(super) fn hosts(&self, root: &mut Section<'_>) -> Option<Hosts> {
        let primary = self.text(root, "primary", "WEIR_PRIMARY", ("--primary", self.flags.primary.as_ref()));
        let replicas = self.texts(root, "replicas", "WEIR_REPLICAS", ("--replica", &self.flags.replicas));
        let replicas: Vec<_> =
            replicas.unwrap_or_default().into_iter().map(|text| self.url(text)).collect::<Vec<_>>();
        let Some(primary) = primary else {
            let origin = Origin::without_line(self.file, "primary");
            self.note(
                &origin,
                "the URL of a server (--primary, WEIR_PRIMARY, or primary in the file)",
                "none",
            );
            return None;
        };
        let Written { value: primary, origin } = self.url(primary)?;
        let Some(user) = primary.user.clone() else {
            self.note(
                &origin,
                "a URL with a user, such as postgres://user:password@host:5432/database",
                "no user",
            );
            return None;
        };
        let login = Login {
            database: primary.database.clone().unwrap_or_else(|| user.clone()),
            password: primary.password.clone(),
            user,
        };

        let mut hosts = Vec::new();
        self.add_hosts(&primary, &primary, &origin, &mut hosts);
        for Written { value: replica, origin } in replicas.into_iter().flatten() {
            self.compare_with_primary(&replica, &primary, &login, &origin);
            self.add_hosts(&replica, &primary, &origin, &mut hosts);
        }
        let (ssl_mode, ca_pem) = self.ssl_mode(&primary, &origin);
        let certificate = match (&primary.ssl_cert, &primary.ssl_key) {
            (Some(certificate), Some(key)) => self
                .pem(certificate, &origin, "CERTIFICATE")
                .and_then(|certificate| Some((certificate, self.pem(key, &origin, "PRIVATE KEY")?))),
            (None, None) => None,
            _ => {
                self.note(&origin, "sslcert and sslkey together", "one of them");
                None
            }
        };
        Some(Hosts { list: hosts, login, ssl_mode, ca_pem, certificate })
    }

    fn url(&self, text: Written<String>) -> Option<Written<ServerUrl>> {
        let Written { value, origin } = text;
        match ServerUrl::parse(&value) {
            Ok(value) => Some(Written { value, origin }),
            Err(wrong) => {
                for wrong in wrong {
                    self.found.note(&origin, wrong);
                }
                None
            }
        }
    }

    /// Adds the hosts of `url`; ports it leaves out are those of the primary.
    fn add_hosts(
        &self,
        url: &ServerUrl,
        primary: &ServerUrl,
        origin: &Origin,
        hosts: &mut Vec<HostSettings>,
    ) {
        let default_port = primary.hosts.first().and_then(|host| host.port);
        let urls = if url.hosts.is_empty() { &[UrlHost::default()] } else { &url.hosts[..] };
        if urls.len() > 1 && url.name.is_some() {
            self.note(origin, "a name for one host", format!("{} hosts", urls.len()));
        }
        for host in urls {
            let address = host.address(default_port);
            let name = url.name.clone().unwrap_or_else(|| match hosts.len() {
                0 => "primary".to_owned(),
                index => format!("replica{index}"),
            });
            if hosts.iter().any(|known| known.address == address) {
                self.note(
                    origin,
                    "each host once",
                    format!("{} again", host.host.as_deref().unwrap_or("localhost")),
                );
            } else if hosts.iter().any(|known| known.name == name) {
                self.note(origin, "a name of its own for each host", value::shown(&name));
            } else {
                hosts.push(HostSettings { name, address, weight: url.weight.unwrap_or(1) });
            }
        }
    }

    /// One login and one way to connect serve all hosts, since roles move between them at a failover.
    fn compare_with_primary(&self, replica: &ServerUrl, primary: &ServerUrl, login: &Login, origin: &Origin) {
        let differs = |replica: &Option<String>, primary: Option<&String>| {
            replica.as_ref().is_some_and(|replica| Some(replica) != primary)
        };
        let ssl_differs = replica.ssl_mode.is_some() && replica.ssl_mode != primary.ssl_mode;
        for (what, is_different) in [
            ("user", differs(&replica.user, Some(&login.user))),
            ("password", differs(&replica.password, login.password.as_ref())),
            ("database", differs(&replica.database, Some(&login.database))),
            ("sslmode", ssl_differs),
            ("sslrootcert", differs(&replica.ssl_root_cert, primary.ssl_root_cert.as_ref())),
            ("sslcert", differs(&replica.ssl_cert, primary.ssl_cert.as_ref())),
            ("sslkey", differs(&replica.ssl_key, primary.ssl_key.as_ref())),
        ] {
            if is_different {
                self.note(origin, format!("the primary's {what}, or none"), format!("another {what}"));
            }
        }
    }

    /// As libpq, `require` with authorities means `verify-ca`.
    fn ssl_mode(&self, primary: &ServerUrl, origin: &Origin) -> (SslMode, Option<Vec<u8>>) {
        let mode = primary.ssl_mode.unwrap_or(SslMode::Prefer);
        let ca_pem = match primary.ssl_root_cert.as_deref() {
            Some("system") => {
                let ca_pem =
                    SYSTEM_CA_FILES.iter().find_map(|path| (self.machine.read)(Path::new(path)).ok());
                if ca_pem.is_none() {
                    self.note(origin, "certificate authorities of the system", "none at the usual places");
                }
                ca_pem
            }
            Some(path) => self.pem(path, origin, "CERTIFICATE"),
            None => {
                if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) {
                    self.note(origin, "sslrootcert=FILE or sslrootcert=system with this sslmode", "neither");
                }
                None
            }
        };
        match mode {
            SslMode::Require if ca_pem.is_some() => (SslMode::VerifyCa, ca_pem),
            mode => (mode, ca_pem),
        }
    }
}
