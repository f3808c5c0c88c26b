//! The PostgreSQL hosts and their roles.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::connect::Connector;
use crate::config::{HostAddress, Settings};
use crate::net::tls;
use crate::pg::HostId;

/// What a host was last found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Not asked yet.
    Unknown,
    /// It takes writes.
    Primary,
    /// A hot standby.
    Replica,
    /// It cannot be reached, or refuses us.
    Down,
    /// It was the primary, and does not answer in time. It may be overloaded, and is the primary as long as no other host
    /// says that it is: to refuse all clients would help nobody.
    Silent,
}

impl Role {
    /// The word in logs, metrics and the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Down => "down",
            Self::Silent => "silent",
        }
    }

    /// What a host is after a probe without an answer in time.
    #[must_use]
    pub fn without_answer(self) -> Self {
        match self {
            Self::Primary | Self::Silent => Self::Silent,
            Self::Unknown => Self::Unknown,
            Self::Replica | Self::Down => Self::Down,
        }
    }

    fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Primary,
            2 => Self::Replica,
            3 => Self::Down,
            4 => Self::Silent,
            _ => Self::Unknown,
        }
    }

    fn as_u8(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Primary => 1,
            Self::Replica => 2,
            Self::Down => 3,
            Self::Silent => 4,
        }
    }
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Its place.
    pub id: HostId,
    /// How to connect to it.
    pub connector: Arc<Connector>,
    /// Its share of reads.
    pub weight: u32,
    role: AtomicU8,
    /// Why the last probe failed, if it did.
    error: Mutex<Option<String>>,
}

impl Host {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.connector.name
    }

    /// Its last known role.
    pub fn role(&self) -> Role {
        Role::from_u8(self.role.load(Ordering::Acquire))
    }

    /// Why the last probe failed.
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it is.
    pub fn address(&self) -> &HostAddress {
        self.connector.address()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All hosts, and which is the primary.
#[derive(Debug)]
pub struct Hosts {
    list: Vec<Arc<Host>>,
    primary: watch::Sender<Option<HostId>>,
}

impl Hosts {
    /// The hosts of the settings. Until roles are known, the first is taken for the primary.
    pub fn new(settings: &Settings) -> Result<Self, tls::SetupError> {
        let mut list = Vec::new();
        for (index, host) in settings.hosts.iter().enumerate() {
            let per_server = settings.prepared.per_server_max;
            let connector =
                Connector::new(host.name.clone(), host.address.clone(), &settings.servers, per_server)?;
            list.push(Arc::new(Host {
                id: HostId(index),
                connector: Arc::new(connector),
                weight: host.weight,
                role: AtomicU8::new(Role::Unknown.as_u8()),
                error: Mutex::new(None),
            }));
        }
        let first = (!list.is_empty()).then_some(HostId(0));
        Ok(Self { list, primary: watch::Sender::new(first) })
    }

    /// All of them, in the order of the settings.
    pub fn list(&self) -> &[Arc<Host>] {
        &self.list
    }

    /// One of them.
    pub fn host(&self, id: HostId) -> &Arc<Host> {
        &self.list[id.0]
    }

    /// The primary, if there is one.
    #[inline]
    pub fn primary(&self) -> Option<HostId> {
        *self.primary.borrow()
    }

    /// The primary, and each change of it.
    pub fn primary_changes(&self) -> watch::Receiver<Option<HostId>> {
        self.primary.subscribe()
    }

    /// Takes what a probe found; gives whether the role changed.
    pub fn found(&self, id: HostId, role: Role, error: Option<String>) -> bool {
        let host = self.host(id);
        *host.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        let before = Role::from_u8(host.role.swap(role.as_u8(), Ordering::AcqRel));
        let first = |role| self.list.iter().find(|host| host.role() == role).map(|host| host.id);
        let primary = first(Role::Primary).or_else(|| first(Role::Silent));
        let unknown = self.list.iter().any(|host| host.role() == Role::Unknown);
        // While roles are still being asked for, the presumed primary serves.
        if primary.is_some() || !unknown {
            self.primary.send_if_modified(|current| {
                let changed = *current != primary;
                *current = primary;
                changed
            });
        }
        before != role
    }
}
